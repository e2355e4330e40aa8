"""Transformer layers one after the other in any model: what token merging and shortening work on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgemm.errors import CheckpointError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.torch_branches import TorchBranches
from edgemm.workshop.models.tried import evaluating, sample_inputs

KEYS = ("k_proj", "key", "k", "qkv")
"""What libraries call the linear layer that makes keys; the last one makes queries and values too."""
MASKS = ("attention_mask", "attn_mask", "bias")
"""What they call the argument of a layer that is added to attention's scores."""
FEWEST_LAYERS = 2
MOST_PROTECTED = 16  # class tokens and registers; more than that beyond the patches are something else


@dataclass(frozen=True)
class Tower:
    """Transformer layers one after the other.

    Attributes:
        name: Of the list that holds them, in the model.
        layers: Their names.
        keys: Of each the linear layer that makes keys.
        mask: Argument of a layer that is added to attention's scores; "" where there is none.
    """

    name: str
    layers: tuple[str, ...]
    keys: tuple[str, ...]
    mask: str


def towers(module: nn.Module) -> list[Tower]:
    """Lists of layers of one kind, each with one linear layer that makes keys."""
    return list(_towers(module))


def _towers(module: nn.Module) -> Iterator[Tower]:
    for name, part in module.named_modules():
        layers = list(part.named_children()) if isinstance(part, (nn.ModuleList, nn.Sequential)) else []
        if len(layers) < FEWEST_LAYERS or len({type(layer) for _, layer in layers}) > 1:
            continue
        keys = [_key(layer) for _, layer in layers]
        if all(keys):
            names = tuple(f"{name}.{child}" if name else child for child, _ in layers)
            accepted = inspect.signature(layers[0][1].forward).parameters
            mask = next((word for word in MASKS if word in accepted), "")
            yield Tower(name, names, tuple(f"{layer}.{key}" for layer, key in zip(names, keys, strict=True)), mask)


def _key(layer: nn.Module) -> str:
    """The linear layer inside of ``layer`` that makes keys; "" where there is none, or several."""
    named = [name for name, part in layer.named_modules() if isinstance(part, nn.Linear) and name.rpartition(".")[2] in KEYS]
    return named[0] if len(named) == 1 else ""


def branch_of(tower: Tower, parts: TorchBranches) -> str:
    """The input in whose branch a tower is; "" where it is in none, or the model does not use it."""
    owner = parts.of_parameter.get(f"{tower.keys[0]}.weight", "")
    return owner if owner in parts.branches.inputs else ""


def is_packed(tower: Tower) -> bool:
    """Whether one layer makes queries, keys and values."""
    return tower.keys[0].rpartition(".")[2] == "qkv"


@dataclass
class Sizes:
    """Of a tower: tokens, and how many of the first are no patches."""

    tokens: int = 0
    protected: int = 0


def measure(model: FusedModel, found: Sequence[Tower]) -> Mapping[str, Sizes]:
    """Tower -> its sizes, from one call on made-up inputs.

    Class tokens and registers stand before the patches; so many tokens as there are more of than the last convolution before the tower
    has places.
    """
    sizes = {tower.name: Sizes() for tower in found}
    last: list[int] = [0]

    def convolved(part: nn.Module, args: Any, output: Tensor) -> None:
        last[0] = int(output[0, 0].numel())

    def entered(tower: Tower) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any) -> None:
            states = args[0] if args else next(iter(kwargs.values()))
            tokens = int(states.shape[1])
            more = tokens - last[0]
            sizes[tower.name] = Sizes(tokens, more if 0 <= more <= MOST_PROTECTED else 1)

        return hook

    handles = [part.register_forward_hook(convolved) for part in model.module.modules() if isinstance(part, (nn.Conv1d, nn.Conv2d))]
    handles += [model.module.get_submodule(tower.layers[0]).register_forward_pre_hook(entered(tower), with_kwargs=True) for tower in found]
    try:
        with torch.no_grad(), evaluating(model):
            model(sample_inputs(model.card))
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def recorded(model: FusedModel, record: Mapping[str, Any], known_format: int, step: str) -> Iterator[tuple[Mapping[str, Any], Tower]]:
    """Each row of what a step wrote down about a model's towers, with the tower of this model.

    Raises:
        CheckpointError: The record is of another format or another model.
    """
    if record.get("format") != known_format:
        raise CheckpointError(
            f"the record of the step {step} has format {record.get('format')!r}; this edgemm reads {known_format}.",
            fix="write the model again with this version.",
        )
    known = {tower.name: tower for tower in towers(model.module)}
    for row in record["towers"]:
        if row["tower"] not in known or max(row.get("kept", (0,))) >= len(known[row["tower"]].layers):
            raise CheckpointError(
                f"the record of the step {step} does not fit what the factory builds.",
                why=f"there is no transformer '{row['tower']}' of so many layers.",
                fix="use the factory and the kwargs that the model was made with.",
            )
        yield row, known[row["tower"]]
