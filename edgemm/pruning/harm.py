"""How far a pruned model's answers go astray before anything is trained again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgemm.data import Dataset
from edgemm.errors import PruneError
from edgemm.models.answers import answer, tensors
from edgemm.models.distillation import imitation
from edgemm.models.fused import FusedModel
from edgemm.models.losses import Tensors
from edgemm.pruning.cutting import cut
from edgemm.pruning.layers import Structure

BATCH = 64


class Harm:
    """Removed channels -> mean divergence from the whole model's answers, summed over the outputs; 0 where nothing is lost.

    Both models' batch statistics are taken anew before the answers are compared: with those of the whole model a cut that training repairs
    in no time looks as bad as one that it never repairs.

    Args:
        samples: Training samples looked at; labels are not read.

    Raises:
        PruneError: There are no training rows.

    Source: Li et al. 2020, "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning" (adaptive batch normalisation).
    """

    def __init__(self, model: FusedModel, found: Structure, dataset: Dataset | None, *, samples: int, seed: int) -> None:
        if dataset is None or not dataset.count("train"):
            why = "no dataset was given, or it has no train split."
            raise PruneError("spread 'branches' needs training data.", why=why, fix="give data with -d, or set spread: even.")
        self._model, self._found = model, found
        self._batches = [tensors(batch) for batch in dataset.batches("train", BATCH, shuffle=seed, limit=samples)]
        self._whole = self._recalibrated([])
        self._deviations = {name: float(torch.cat([given[name] for given in self._whole]).std()) or 1.0 for name in self._whole[0]}

    def __call__(self, removed: Sequence[int]) -> float:
        total, rows = 0.0, 0
        for given, wanted in zip(self._recalibrated(removed), self._whole, strict=True):
            count = len(next(iter(given.values())))
            total, rows = total + count * self._divergence(given, wanted), rows + count
        return total / rows

    def _recalibrated(self, removed: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Answers of a copy without some channels and with statistics of these samples."""
        pruned = FusedModel(self._model.card, copy.deepcopy(self._model.module)).eval()
        cut(pruned.module, self._found.kept(removed))
        _recalibrate(pruned, self._batches)
        with torch.inference_mode():
            return [answer(pruned, batch) for batch in self._batches]

    def _divergence(self, given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
        outputs = self._model.card.outputs
        parts = [imitation(outputs[n], given[n], wanted[n], temperature=1.0, deviation=self._deviations[n]) for n in wanted]
        return float(torch.stack(parts).sum())


def _recalibrate(model: FusedModel, batches: Sequence[Tensors]) -> None:
    """Give batch norms the mean and variance of these samples; without batch norms nothing changes."""
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            if len(batch.rows) > 1:  # one row has no variance
                answer(model, batch)
    model.eval()
