"""One tower of a Hugging Face folder as a module: its backbone, its pooling, what it projects by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from edgemm.errors import CardError, CheckpointError
from edgemm.store import json_text
from edgemm.workshop.models import folder_weights
from edgemm.workshop.models.attention import MASKED
from edgemm.workshop.models.folder_weights import SHOWN, Held
from edgemm.workshop.models.foreign.translation import THIRDS, Taken, Translation
from edgemm.workshop.models.hf_folder import Family, Folder, Side, require_family
from edgemm.workshop.models.layers.backbone import is_causal, quietly, takes, tokens, width_of
from edgemm.workshop.models.layers.text import masked_mean
from edgemm.workshop.models.protocols import Features

ACTIVATIONS = {"Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "Identity": nn.Identity}


def whole_model(folder: Path) -> Held:
    """A folder's model with its weights.

    Raises:
        CheckpointError: It cannot be read.
    """
    if translation := Folder(folder).translation:
        return _translated(folder, translation)
    try:
        with quietly():
            held = folder_weights.read(transformers.AutoModel, folder, attn_implementation="eager")
    except Exception as err:  # transformers, safetensors and huggingface_hub raise many kinds
        raise CheckpointError(
            f"the model in '{folder}' cannot be read.",
            why=" ".join(str(err).split())[:300],
            fix="the folder needs config.json and *.safetensors of a type that this transformers knows; nothing is downloaded.",
        ) from err
    held.model.float()
    return held


def _translated(folder: Path, translation: Translation) -> Held:
    """The same of a folder of open_clip or timm."""
    try:
        found = load_file(translation.file)
        state = {name: _taken(found[theirs], how) for name, (theirs, how) in translation.weights.items()}
        with quietly():
            config = transformers.AutoConfig.for_model(**translation.config)
            kind: Any = transformers.MODEL_MAPPING[type(config)]
            model, loaded = kind.from_pretrained(
                None, config=config, state_dict=state, attn_implementation="eager", output_loading_info=True
            )
        if odd := [*loaded["unexpected_keys"], *(loaded.get("mismatched_keys") or ())]:
            raise ValueError(f"weights of another shape than its configuration says: {odd[:SHOWN]}")
    except Exception as err:  # transformers and safetensors raise many kinds
        raise CheckpointError(
            f"the model in '{folder}' cannot be read.",
            why=" ".join(str(err).split())[:300],
            fix="copy the folder again, weights and configuration from one place.",
        ) from err
    return Held(model.float(), frozenset(loaded["missing_keys"]))


def _taken(weight: Tensor, how: Taken) -> Tensor:
    if how == "transposed":
        return weight.T.contiguous()
    return weight if how == "whole" else weight.chunk(len(THIRDS))[THIRDS.index(how)].clone()


class Tower(nn.Module):
    """``states`` are those of its last layer; a call gives the vector that the folder makes of them.

    Attributes:
        scale, bias: What makes logits of its cosines with another tower's vectors; None and 0 where the model has none.
        notes_of_weights: What of the folder's weights was left out, in sentences.

    Args:
        features: What the card's front-end delivers.

    Raises:
        CardError: It cannot take that, or the pooling is none of its.
        CheckpointError: The folder lacks weights that it needs, or holds more than its configuration says.
    """

    later: Tensor | None

    def __init__(self, folder: Path, features: Features, *, pool: str | None) -> None:
        super().__init__()
        self.side, family = side_of(folder, features)
        held = whole_model(folder)
        model = held.model
        self.pool = pool or self.side.pool
        self.backbone = _backbone(model, family, self.side, features, self.pool)
        self.projection = model.get_submodule(self.side.projection) if self.side.projection and pool is None else nn.Identity()
        self.notes_of_weights = folder_weights.require(folder, held, [self.backbone, self.projection])
        self.dense = nn.Sequential(*(_dense(folder / name) for name in self.side.dense if pool is None))
        self.typed = takes(self.backbone, "token_type_ids")
        self.has_mask = takes(self.backbone, "attention_mask") and self.side.modality != "audio"
        length = features.shape[0]
        is_text = self.side.modality == "text"
        later = torch.full((length, length), MASKED).triu(1) if is_text and is_causal(self.backbone, length) else None
        self.register_buffer("later", later, persistent=False)
        if pool == "pooler":
            self._require_pooler(features)
        self.width = _width(self, model)
        self.scale = math.exp(float(model.get_parameter(family.scale).detach())) if family.scale else None
        self.bias = float(model.get_parameter(family.bias).detach()) if family.bias else 0.0

    def _require_pooler(self, features: Features) -> None:
        one = torch.zeros(1, *features.shape, dtype=torch.int64 if self.side.modality == "text" else torch.float32)
        with torch.no_grad():
            output = self.states(one, None)
        if getattr(output, "pooler_output", None) is None:
            raise CardError(
                f"inputs.{features.name}: pool: pooler, and {type(self.backbone).__name__} has none.",
                why="its last layer gives one vector for each place, and nothing behind it makes one of them.",
                fix="take one of: mean, first, last, max; or leave pool out.",
            )

    def states(self, x: Tensor, mask: Tensor | None) -> Any:
        """The backbone's output.

        Args:
            mask: (N, T), 1 = a token; None = all count.
        """
        x = x.unsqueeze(1) if self.side.has_channel else x
        more: dict[str, Tensor] = {"token_type_ids": x * 0} if self.typed else {}
        if self.has_mask:
            more["attention_mask"] = self._hidden(x, mask)
        return self.backbone(**{self.side.takes: x}, **more)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, *features.shape) -> (N, width)."""
        output = self.states(x, mask)
        vector = self.dense(self.projection(self._pooled(output, mask)))
        return functional.normalize(vector, dim=-1) if self.side.is_unit else vector

    def _pooled(self, output: Any, mask: Tensor | None) -> Tensor:
        if self.pool == "pooler":
            return output.pooler_output.flatten(1)
        states = tokens(output)
        match self.pool:
            case "first":
                return states[:, 0]
            case "last":
                return states[:, -1]
            case "max":
                return (states if mask is None else states + ((1.0 - mask.float()) * MASKED).unsqueeze(2)).amax(1)
        return states.mean(1) if mask is None else masked_mean(states, mask.float())

    def _hidden(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Additive (N, 1, 1 or T, T): made by transformers of (N, T), it exports as nodes that depend on the batch."""
        if mask is None and self.later is None:
            return x.new_zeros((1, 1, 1, 1), dtype=torch.float32)
        hidden = torch.zeros(1, 1, 1, 1) if mask is None else ((1.0 - mask.float()) * MASKED).unsqueeze(1).unsqueeze(1)
        return hidden if self.later is None else hidden + self.later[: x.shape[1], : x.shape[1]]


def side_of(folder: Path, features: Features) -> tuple[Side, Family]:
    """The folder's tower for an input.

    Raises:
        CardError: It has none for that.
    """
    family = require_family(Folder(folder))
    sides = family.sides(Folder(folder))
    side = next((side for side in sides.values() if side.modality == features.modality), None)
    if side is None:
        takes_ = " and ".join(side.modality for side in sides.values())
        raise features.unfit("hf", f"{takes_}, as the model in '{folder}' does")
    return side, family


def _backbone(model: Any, family: Family, side: Side, features: Features, pool: str) -> Any:
    tower = model.get_submodule(side.tower) if side.tower else model
    try:
        tower = family.adapted(tower, features.shape)
    except CardError as err:
        raise CardError(f"inputs.{features.name}: {err.what}", why=err.why, fix=err.fix) from err
    wanted = side_shape(side, tower.config)
    if wanted and wanted != features.shape:
        raise features.unfit("hf", f"samples of shape {wanted}, as its configuration says")
    if pool != "pooler" and any(True for _ in getattr(tower, "pooler", nn.Identity()).parameters()):
        tower.pooler = None  # weights that nothing reads would be trained and shipped
    return tower


def side_shape(side: Side, config: Any) -> tuple[int, ...] | None:
    """What a configuration fixes of a picture; None where it fixes nothing."""
    size = getattr(config, "image_size", None)
    if side.modality != "image" or not size or config.model_type in ("convnext", "convnextv2", "resnet", "dinov2"):
        return None
    high, wide = (size, size) if isinstance(size, int) else size
    return config.num_channels, high, wide


def _dense(folder: Path) -> nn.Module:
    """A linear layer of sentence-transformers."""
    path = folder / "config.json"
    try:
        said = json_text.loads(path.read_text(encoding="utf-8"))
        linear = nn.Linear(said["in_features"], said["out_features"], bias=bool(said.get("bias", True)))
        activation = ACTIVATIONS[str(said.get("activation_function", "Identity")).rpartition(".")[2]]()
        linear.load_state_dict({name.removeprefix("linear."): value for name, value in load_file(folder / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as err:
        why = f"{type(err).__name__}: {err}".rstrip(".") + "."
        raise CardError(f"'{folder}' is no linear layer that is known here.", why=why, fix="copy the model's folder again.") from err
    return nn.Sequential(linear, activation)


def _width(tower: Tower, model: Any) -> int:
    for part in (tower.dense, tower.projection):
        linears = [module for module in part.modules() if isinstance(module, nn.Linear)]
        if linears:
            return linears[-1].out_features
    config = tower.backbone.config
    if tower.pool == "pooler" and tower.side.modality == "text" and getattr(config, "projection_size", None):
        return int(config.projection_size)
    return width_of(config)
