"""What each label counts in a loss: as it was given, or so that rare labels weigh as much as frequent ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.training import BALANCED
from edgemm.data.balanced import label_counts
from edgemm.data.in_memory import DecodedSplit
from edgemm.errors import CardError, nearest

MOST = 100.0
"""A label is never worth more than so many others: one row of 10,000 would shake every step that it is in."""


def class_weights(card: Card, train: DecodedSplit, asked: Mapping[str, Any]) -> dict[str, Tensor]:
    """Output -> factor of each of its labels, float32 (labels,).

    ``balanced``: of one label out of several rows / (labels * rows with it), of any number at once (rows without it) / (rows with it),
    at most ``MOST``; a label that no row has counts 1.

    Raises:
        CardError: An output that is not learned by labels, or a label that it has not.
    """
    return {name: _weights(card, train, name, weights) for name, weights in asked.items()}


def _weights(card: Card, train: DecodedSplit, name: str, asked: Any) -> Tensor:
    labels = card.outputs[name].labels or ()
    if asked != BALANCED:
        for label in asked:
            if label not in labels:
                raise CardError(f"class_weights.{name} names '{label}', no label of it.", fix=nearest(str(label), labels))
        return torch.tensor([float(asked.get(label, 1.0)) for label in labels])
    counts, rows = label_counts(train, name, len(labels))
    apart = tasks.of(card.outputs[name]).is_by_sign  # each label for itself
    wanted = (rows - counts) if apart else np.full(len(labels), rows / max(len(labels), 1))
    weights = np.where(counts > 0, np.minimum(wanted / np.maximum(counts, 1), MOST), 1.0)
    return torch.tensor(weights, dtype=torch.float32)
