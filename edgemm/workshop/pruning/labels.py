"""Labels of one value in the graph: which atom stands at which position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemm.workshop.pruning.atoms import ADAPTS, FIXED, Atoms


@dataclass(frozen=True)
class Label:
    """Labels of a value.

    Attributes:
        at: As many axes as the value; size 1 along those on which the labels are all alike.
        shape: The value's.
    """

    at: Tensor
    shape: tuple[int, ...]

    def varying(self) -> tuple[int, ...]:
        """Axes along which the labels differ."""
        return tuple(axis for axis, size in enumerate(self.at.shape) if size > 1)

    def has_atoms(self) -> bool:
        return bool((self.at > 0).any())

    def full(self) -> Tensor:
        """The labels in the value's own shape, as a view."""
        return self.at.expand(self.shape)


def fixed(shape: Sequence[int]) -> Label:
    """No atom anywhere."""
    return plain(shape, FIXED)


def adapting(shape: Sequence[int]) -> Label:
    """Takes any size."""
    return plain(shape, ADAPTS)


def plain(shape: Sequence[int], label: int) -> Label:
    """The same label at every position."""
    return Label(torch.full((1,) * len(shape), label, dtype=torch.int64), tuple(shape))


def along(labels: Tensor, axis: int, shape: Sequence[int]) -> Label:
    """One label for each position on ``axis``, alike along all others."""
    sizes = [1] * len(shape)
    sizes[axis] = len(labels)
    return Label(labels.reshape(sizes), tuple(shape))


def gather(full: Tensor, atoms: Atoms) -> Label:
    """A label from a tensor in the value's shape, kept small: axes along which all is alike shrink to size 1."""
    at = full
    for axis in range(at.dim()):
        if at.shape[axis] > 1 and at.stride(axis) == 0:
            at = at.narrow(axis, 0, 1)
    return Label(_shrunk(at.contiguous(), atoms), tuple(full.shape))


def renewed(label: Label, atoms: Atoms) -> Label:
    """The same label after joins made since: what is alike by now shrinks."""
    return Label(_shrunk(label.at, atoms), label.shape)


def _shrunk(at: Tensor, atoms: Atoms) -> Tensor:
    at = atoms.roots(at)
    for axis in range(at.dim()):
        first = at.narrow(axis, 0, min(1, at.shape[axis]))
        if at.shape[axis] > 1 and bool((at == first).all()):
            at = first
    return at
