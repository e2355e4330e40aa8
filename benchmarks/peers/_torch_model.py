"""The trained model as a PyTorch user has it: front-end and network in one module, tensors in card order in, a tuple out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgemm.contracts import card_file
from edgemm.data.dataset import open_dataset
from edgemm.workshop.models.checkpoint.loading import load_model

if TYPE_CHECKING:
    from _given import Given

BATCH = 64


class Model(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.fused = load_model(card_file.load(path)).eval()
        self.inputs, self.outputs = list(self.fused.card.inputs), list(self.fused.card.outputs)

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answers = self.fused(dict(zip(self.inputs, values, strict=True)))
        return tuple(answers[name] for name in self.outputs)


def samples(given: Given, model: Model) -> list[tuple[torch.Tensor, ...]]:
    """Calibration samples, one tuple of inputs a row."""
    return [tuple(torch.from_numpy(row[name]) for name in model.inputs) for row in given.samples]


class Rows:
    """The train split in memory, as its files are read once."""

    def __init__(self, given: Given, model: Model) -> None:
        batches = list(open_dataset(given.data, model.fused.card).batches("train", BATCH))
        self.inputs = [torch.cat([torch.from_numpy(b.inputs[name]) for b in batches]) for name in model.inputs]
        self.labels = [torch.cat([torch.from_numpy(b.targets[name]) for b in batches]) for name in model.outputs]

    def __iter__(self) -> Iterator[tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]]:
        """Shuffled batches: inputs, labels of each output."""
        for rows in torch.randperm(len(self.labels[0])).split(BATCH):
            yield tuple(values[rows] for values in self.inputs), [labels[rows] for labels in self.labels]

    def __len__(self) -> int:
        return -(-len(self.labels[0]) // BATCH)
