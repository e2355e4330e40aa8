"""Layers: the channels that fill the same slots, and why others are left whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgemm.workshop.models.torch_branches import TorchBranches
from edgemm.workshop.pruning.rules import Traced, Work

Slot = tuple[str, int]


@dataclass(frozen=True)
class Layer:
    """Channels that may be removed one by one.

    Attributes:
        name: The module that makes them; of several joined ones the first.
        branch: Its branch; ``fusion`` where modules of several branches share the channels.
        roots: One number a channel (for attention: a whole head).
        slots: Where they stand.
        numbers: How many positions one channel fills at least: 1, or the size of a head.
        recurrent: Whether they are the state of a recurrent layer.
    """

    name: str
    branch: str
    roots: tuple[int, ...]
    slots: tuple[Slot, ...]
    numbers: int = 1
    recurrent: bool = False

    @property
    def width(self) -> int:
        return len(self.roots)


@dataclass(frozen=True)
class WholeLayer:
    """Channels that stay, and why."""

    name: str
    branch: str
    width: int
    reason: str


@dataclass(frozen=True)
class Structure:
    """What of a model may be removed.

    Attributes:
        slots: (parameter or buffer, axis) -> the channel at each position; 0 = stays.
        attention: Attention layers that were replaced before (``split_attention``).
        shapes: Parameter -> its shape.
    """

    layers: tuple[Layer, ...]
    whole: tuple[WholeLayer, ...]
    slots: Mapping[Slot, np.ndarray]
    works: tuple[tuple[str, float, tuple[np.ndarray, ...]], ...]
    parts: TorchBranches
    shapes: Mapping[str, tuple[int, ...]]
    attention: tuple[str, ...] = ()

    def kept(self, removed: Collection[int]) -> dict[str, dict[int, np.ndarray]]:
        """Parameter -> axis -> kept positions, for those that lose some."""
        gone = np.fromiter(removed, np.int64, len(removed))
        kept: dict[str, dict[int, np.ndarray]] = {}
        for (name, axis), roots in self.slots.items():
            stays = ~np.isin(roots, gone)
            if not stays.all():
                kept.setdefault(name, {})[axis] = np.flatnonzero(stays)
        return kept


def structure(traced: Traced, parts: TorchBranches, tensors: Mapping[str, torch.Tensor], attention: Sequence[str] = ()) -> Structure:
    """Group the channels of a trace into layers."""
    atoms = traced.atoms
    slots = {key: atoms.roots(labels).numpy() for key, labels in atoms.slots.items()}
    free, frozen = _groups(traced, slots)
    layers, whole = [], []
    for keys, members in free.items():
        name, branch = _name(keys), _branch(keys, parts, tensors)
        if len(members) == 1:
            whole.append(WholeLayer(name, branch, 1, "all its channels hang together"))
        else:
            layers.append(Layer(name, branch, tuple(members), keys, _numbers(keys, members, slots), any(map(_is_state, keys))))
    for (keys, reason), members in frozen.items():
        whole.append(WholeLayer(_name(keys), _branch(keys, parts, tensors), len(members), reason))
    kept = {root for layer in layers for root in layer.roots}
    return Structure(
        layers=tuple(layers),
        whole=tuple(whole),
        slots={key: np.where(np.isin(roots, list(kept)), roots, 0) for key, roots in slots.items()},
        works=tuple(_work(work, traced) for work in traced.works),
        parts=parts,
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        attention=tuple(attention),
    )


def without(found: Structure, reasons: Mapping[str, str]) -> Structure:
    """The same with some layers left whole: name -> reason."""
    whole = [WholeLayer(layer.name, layer.branch, layer.width, reasons[layer.name]) for layer in found.layers if layer.name in reasons]
    layers = tuple(layer for layer in found.layers if layer.name not in reasons)
    kept = {root for layer in layers for root in layer.roots}
    slots = {key: np.where(np.isin(roots, list(kept)), roots, 0) for key, roots in found.slots.items()}
    return replace(found, layers=layers, whole=(*found.whole, *whole), slots=slots)


def _groups(
    traced: Traced, slots: Mapping[Slot, np.ndarray]
) -> tuple[dict[tuple[Slot, ...], list[int]], dict[tuple[tuple[Slot, ...], str], list[int]]]:
    """Channels by the slots they fill: those that may go, and those that stay, with their reason."""
    where: dict[int, list[Slot]] = {}
    for key, positions in slots.items():
        for root in np.unique(positions[positions > 0]).tolist():
            where.setdefault(root, []).append(key)
    free: dict[tuple[Slot, ...], list[int]] = {}
    frozen: dict[tuple[tuple[Slot, ...], str], list[int]] = {}
    for root, keys in where.items():
        reason = traced.atoms.reason(root)
        if reason is None:
            free.setdefault(tuple(keys), []).append(root)
        else:
            frozen.setdefault((tuple(keys), reason), []).append(root)
    return free, frozen


def _work(work: Work, traced: Traced) -> tuple[str, float, tuple[np.ndarray, ...]]:
    return work.branch, work.macs, tuple(traced.atoms.roots(labels).clamp(min=0).numpy() for labels in work.labels)


def _name(keys: Sequence[Slot]) -> str:
    """The module whose parameter was reached first, which is the one that makes the channels."""
    parameter = keys[0][0]
    return parameter.rpartition(".")[0] or parameter


def _branch(keys: Sequence[Slot], parts: TorchBranches, tensors: Mapping[str, torch.Tensor]) -> str:
    makers = [name for name, axis in keys if axis == 0 and tensors[name].dim() > 1] or [keys[0][0]]
    branches = {parts.of_parameter.get(name, "fusion") for name in makers}
    return branches.pop() if len(branches) == 1 else "fusion"


def _is_state(slot: Slot) -> bool:
    """Whether it is read as the state of a recurrent layer: torch's name for those weights."""
    name, axis = slot
    return axis == 1 and name.rpartition(".")[2].startswith("weight_hh_l")


def _numbers(keys: Sequence[Slot], roots: Sequence[int], slots: Mapping[Slot, np.ndarray]) -> int:
    return min(int(np.isin(slots[key], roots).sum()) // len(roots) for key in keys)
