"""Atoms: removable channels, joined by union-find; and the slots of parameters that they fill."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

IS_OUTPUT = "it is an output of the model"
FIXED, ADAPTS = 0, -1
"""Labels that are no atom: a size that cannot change; a size that follows whatever it meets (expanded masks, fresh zeros)."""


class Atoms:
    """Union-find over channels.

    A label tensor holds one number for each channel position: an atom (> 0), ``FIXED`` or ``ADAPTS``. Atoms that were joined are
    removed together or not at all. A frozen one stays, and says why. A wild one is an element of a bare parameter that no channel
    has claimed yet.

    Attributes:
        slots: (parameter or buffer, axis) -> one label for each position of that axis. Cutting, masking and scoring follow from it alone.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._count = 1
        self._frozen: dict[int, str] = {}
        self._claimed: set[int] = set()
        self.slots: dict[tuple[str, int], Tensor] = {}

    def fresh(self, count: int, *, wild: bool = False) -> Tensor:
        """``count`` new atoms; a single channel cannot be removed, so one alone is ``FIXED``."""
        if count == 1 and not wild:
            return torch.zeros(1, dtype=torch.int64)
        while self._count + count > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
        atoms = np.arange(self._count, self._count + count)
        self._parent[atoms] = atoms
        self._count += count
        if not wild:
            self._claimed.update(atoms.tolist())
        return torch.from_numpy(atoms.copy())

    def roots(self, labels: Tensor) -> Tensor:
        """The same labels with every atom replaced by the one that stands for all it was joined with."""
        array = labels.numpy()
        roots = np.where(array > 0, self._parent[np.maximum(array, 0)], array)
        while True:
            further = np.where(roots > 0, self._parent[np.maximum(roots, 0)], roots)
            if np.array_equal(further, roots):
                return torch.from_numpy(roots)
            roots = further

    def merge(self, first: Tensor, second: Tensor, reason: str) -> Tensor:
        """Join two label tensors (broadcast against each other) position by position; an atom that meets ``FIXED`` is frozen.

        Returns:
            Labels of the joined positions.
        """
        one, other = torch.broadcast_tensors(self.roots(first), self.roots(second))
        both = (one > 0) & (other > 0) & (one != other)
        for a, b in torch.unique(torch.stack([one[both], other[both]], 1), dim=0).tolist():
            self._join(a, b)
        self.freeze(one[(one > 0) & (other == FIXED)], reason)
        self.freeze(other[(other > 0) & (one == FIXED)], reason)
        return self.roots(torch.where(one > 0, one, torch.where(other > 0, other, torch.maximum(one, other))))

    def tie(self, labels: Tensor, axis: int, reason: str) -> Tensor:
        """Join all atoms that share a position on ``axis``; what shares it with ``FIXED`` is frozen.

        Returns:
            One label for each position on ``axis``.
        """
        rows = self.roots(labels).movedim(axis, 0).reshape(labels.shape[axis], -1)
        tied = rows[:, 0]
        for column in range(1, rows.shape[1]):
            tied = self.merge(tied, rows[:, column], reason)
        return tied

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Keep these channels; the first reason given to one stays."""
        for root in torch.unique(self.roots(labels[labels > 0])).tolist():
            self._frozen.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """Why a root is frozen; None while it is not."""
        return self._frozen.get(root)

    def is_claimed(self, labels: Tensor) -> Tensor:
        """Which positions hold an atom that belongs to a channel, not only to elements of bare parameters."""
        roots = self.roots(labels)
        claimed = {root: root in self._claimed for root in torch.unique(roots).tolist()}
        return torch.tensor([claimed[root] for root in roots.flatten().tolist()], dtype=torch.bool).reshape(roots.shape)

    def fill(self, name: str, axis: int, labels: Tensor) -> Tensor:
        """Say which label stands at each position of an axis of a parameter; a second use of the parameter joins the first.

        Returns:
            The labels that stand there.
        """
        key = (name, axis)
        slot = self.slots.get(key)
        if slot is not None:
            labels = self.merge(slot, labels, f"'{name}' is used twice, once with a fixed size")
        self.slots[key] = labels
        return labels

    def _join(self, first: int, second: int) -> None:
        one, other = self._find(first), self._find(second)
        if one == other:
            return
        one, other = min(one, other), max(one, other)
        self._parent[other] = one
        if other in self._frozen:
            self._frozen.setdefault(one, self._frozen.pop(other))
        if other in self._claimed:
            self._claimed.add(one)

    def _find(self, atom: int) -> int:
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = int(self._parent[atom])
        return atom
