"""How far a pruned model's answers go astray before anything is trained again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgemm.contracts import task as tasks
from edgemm.contracts.dataset import Dataset
from edgemm.errors import PruneError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.pruning.cutting import cut
from edgemm.workshop.pruning.layers import Structure
from edgemm.workshop.training import loss as losses
from edgemm.workshop.training.answers import answer, tensors

BATCH = 64


class Harm:
    """Removed channels -> mean divergence from the whole model's answers, summed over the outputs; 0 where nothing is lost.

    Batch norms take the statistics of each batch, in both models: with those learned for the whole model a cut that training repairs in no
    time looks as bad as one that it never repairs. Rows of val are looked at, of train only where val has not two: a model answers what it
    knows by heart with any branch. (Spoiled digits, half of the MACs, two seeds: shares by train kept 0.815 and 0.851 on test, by val 0.870
    and 0.927.)

    Args:
        samples: Rows looked at; labels are not read.

    Raises:
        PruneError: Neither split has two rows.

    Source: after Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning" (adaptive batch normalisation).
    """

    def __init__(self, model: FusedModel, structure: Structure, dataset: Dataset | None, *, samples: int, seed: int) -> None:
        split = next((name for name in ("val", "train") if dataset is not None and dataset.count(name) >= 2), None)  # one has no variance
        if dataset is None or split is None:
            why = "no dataset was given, or neither val nor train has two rows."
            raise PruneError("spread 'branches' needs data.", why=why, fix="give data with -d, or set spread: even.")
        self._model, self._found = model, structure
        batches = [tensors(batch) for batch in dataset.batches(split, BATCH, shuffle=seed, limit=max(2, samples))]
        self._batches = [batch for batch in batches if len(batch.rows) > 1]
        self._whole = self._answers([])
        self._losses = {
            name: losses.of(output, deviation=self._deviation(name) if tasks.of(output).is_quantity else 1.0)
            for name, output in model.card.outputs.items()
        }

    def __call__(self, removed: Sequence[int]) -> float:
        total, rows = 0.0, 0
        for pruned, whole in zip(self._answers(removed), self._whole, strict=True):
            count = len(next(iter(pruned.values())))
            total, rows = total + count * self._divergence(pruned, whole), rows + count
        return total / rows

    def _deviation(self, name: str) -> float:
        return float(torch.cat([answers[name] for answers in self._whole]).std()) or 1.0

    def _answers(self, removed: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        pruned = FusedModel(self._model.card, copy.deepcopy(self._model.module)).eval()
        cut(pruned.module, self._found.kept(removed))
        for part in pruned.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.train()
        with torch.no_grad():
            return [answer(pruned, batch) for batch in self._batches]

    def _divergence(self, pruned: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]) -> float:
        ours, theirs = ({name: answer.float() for name, answer in answers.items()} for answers in (pruned, whole))
        return float(torch.stack([loss.imitation(ours, theirs, temperature=1.0) for loss in self._losses.values()]).sum())
