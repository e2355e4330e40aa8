"""What the Hugging Face encoders share: making the backbone, and taking tokens and vectors from it.

Attention is transformers' ``eager`` form with a mask that is already (N, 1, T, T) and additive: made by transformers from (N, T), it
exports as Range, GatherND and IsNaN nodes that depend on the batch.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from edgemm.errors import CardError
from edgemm.workshop.models import folder_weights
from edgemm.workshop.models.folder_weights import Held
from edgemm.workshop.models.protocols import Features


def backbone(encoder: str, tower: str, features: Features, path: str | None, config: Mapping[str, Any] | None, pool: str) -> Any:
    """The backbone with pretrained weights from ``path``, or fresh ones from ``config``.

    Args:
        tower: Submodule to take of a model that has several (``vision_model``, ``text_model``).
        path: A local Hugging Face directory, relative to the card, else to the current directory. Nothing is downloaded.
        config: Its ``model_type`` and whatever differs from that type's defaults.

    Raises:
        CardError: Neither or both are given, the directory is missing or foreign, or the model type is unknown.
        CheckpointError: Its weights do not fit its configuration.
    """
    where = f"encoder '{encoder}' of '{features.name}'"
    if (path is None) == (config is None):
        raise CardError(
            f"{where}: it needs either 'path' or 'config'.",
            why="neither is given." if path is None else "both are given.",
            fix="path: <local Hugging Face directory>, or config: {model_type: resnet}.",
        )
    folder = None if path is None else _directory(path, features.folder, where)
    make = partial(_fresh, *_kind(config or {}, where)) if folder is None else partial(_pretrained, folder)
    try:
        held = make()
    except Exception as err:  # transformers and huggingface_hub raise many kinds
        why = " ".join(str(err).split())[:300]
        raise CardError(f"{where}: transformers cannot make this model.", why=why, fix="check path or config.") from err
    model = getattr(held.model, tower, held.model)
    if pool != "pooler":
        _drop_pooler(model)
    if folder is not None:
        model.notes_of_weights = folder_weights.require(folder, held, [model])
    return model


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, transformers draws no bars while it reads weights, and tells no more than errors: what it misses is told here."""
    logging = transformers.utils.logging
    was_drawn, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_drawn:
            logging.enable_progress_bar()


def takes(model: nn.Module, parameter: str) -> bool:
    """Whether the model's ``forward`` names this parameter."""
    return parameter in inspect.signature(model.forward).parameters


def is_causal(model: nn.Module, length: int) -> bool:
    """Whether a word sees only the words before it: found by changing the last word and looking at the first."""
    ids = torch.zeros(2, length, dtype=torch.int64)
    ids[1, -1] = 1
    was_training = model.training
    with torch.no_grad():
        first = model.eval()(input_ids=ids).last_hidden_state[:, 0]
    model.train(was_training)
    return length > 1 and bool(torch.equal(first[0], first[1]))


def vector(output: Any, pool: str, encoder: str) -> Tensor:
    """(N, width) from the backbone's output: its own ``pooler``, the ``first`` token, or the ``mean``.

    Raises:
        CardError: ``pooler``, and the backbone has none.
    """
    if pool == "pooler":
        if getattr(output, "pooler_output", None) is None:
            raise CardError(f"encoder '{encoder}': this backbone has no pooler.", fix="set pool: mean, or pool: first.")
        return output.pooler_output.flatten(1)
    hidden = output.last_hidden_state
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    return hidden[:, 0] if pool == "first" else hidden.mean(1)


def tokens(output: Any) -> Tensor:
    """(N, T, width); a map (N, width, H, W) gives one token a cell."""
    hidden = output.last_hidden_state
    return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden


def width_of(config: Any) -> int:
    """Size of the backbone's vectors."""
    return int(config.hidden_sizes[-1] if getattr(config, "hidden_sizes", None) else config.hidden_size)


def _drop_pooler(model: Any) -> None:
    """Without it, weights that nothing reads would be trained and shipped."""
    if any(True for _ in getattr(model, "pooler", nn.Identity()).parameters()):
        model.pooler = None
    if hasattr(model, "use_head"):  # SigLIP, pictures
        model.use_head = False
    if hasattr(model, "head"):
        model.head = nn.Identity()
    if model.config.model_type == "clip_vision_model":
        model.post_layernorm = nn.Identity()  # of the class token alone


def _directory(path: str, folder: Path | None, where: str) -> Path:
    for base in (folder or Path(), Path()):
        if (base / path / "config.json").is_file():
            return base / path
    raise CardError(
        f"{where}: '{path}' is no Hugging Face directory.",
        why="no config.json in it, neither beside the card nor from here; nothing is downloaded.",
        fix="give the folder of a model that was downloaded.",
    )


def _kind(config: Mapping[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    """The configuration class that ``model_type`` names, and the rest."""
    options = dict(config)
    kind = options.pop("model_type", None)
    if kind not in transformers.CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), list(transformers.CONFIG_MAPPING), n=1)
        raise CardError(f"{where}: unknown model_type '{kind}'.", fix=f"did you mean '{(close or ['resnet'])[0]}'?")
    return transformers.CONFIG_MAPPING[kind], options


def _pretrained(folder: Path) -> Held:
    with quietly():
        return folder_weights.read(transformers.AutoModel, folder, attn_implementation="eager")


def _fresh(kind: Any, given: dict[str, Any]) -> Held:
    """By the model's own class where there is one: AutoModel knows SigLIP's pictures, and not its texts."""
    config = kind(**given, attn_implementation="eager")
    own = getattr(transformers, kind.__name__.removesuffix("Config") + "Model", None)
    return Held(own(config) if own else transformers.AutoModel.from_config(config, trust_remote_code=False))
