"""A memory of negatives: what the teacher said of rows of earlier batches, so that a small batch is compared with thousands."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemm.contracts.card import Card

SHARPNESS = 20.0
"""1 / temperature of the softmax over cosines: between a fresh CLIP's 14 and a trained one's 100; the nearest hundred of 4,096 count."""


def paired(card: Card) -> dict[str, str]:
    """Embedding output -> the output that it is to be found by."""
    return {name: str(output.pair) for name, output in card.outputs.items() if output.task == "embedding" and output.pair}


class Negatives(nn.Module):
    """The teacher's embeddings of the latest rows; they never age, since a teacher does not change.

    Args:
        pairs: As of ``paired``.
        rows: How many are kept.

    Source: affinity mimicking, Wu et al. 2023, "TinyCLIP", section 3.1, over a queue as He et al. 2020, "MoCo", has one.
    """

    def __init__(self, pairs: Mapping[str, str], rows: int) -> None:
        super().__init__()
        self.pairs, self.rows = dict(pairs), rows
        self._kept: dict[str, Tensor] = {}

    def forward(self, outputs: Mapping[str, Tensor], taught: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How differently student and teacher spread the pairs of a batch over what is kept and the batch itself.

        Args:
            outputs, taught: Output -> (N, width) of the student and of the teacher.

        Returns:
            Embedding output -> KL divergence, a scalar.
        """
        theirs = {name: F.normalize(taught[name].float(), dim=-1) for name in self.pairs}
        parts = {}
        for name, pair in self.pairs.items():
            against = theirs[pair] if pair not in self._kept else torch.cat([theirs[pair], self._kept[pair].to(theirs[pair].device)])
            ours = F.normalize(outputs[name].float(), dim=-1) @ against.T
            wanted = (theirs[name] @ against.T * SHARPNESS).softmax(-1)
            parts[name] = F.kl_div((ours * SHARPNESS).log_softmax(-1), wanted, reduction="batchmean")
        if self.training:
            self._keep(theirs)
        return parts

    def _keep(self, vectors: Mapping[str, Tensor]) -> None:
        for name, value in vectors.items():
            value = value.detach()
            self._kept[name] = torch.cat([value, self._kept[name]])[: self.rows] if name in self._kept else value[: self.rows]
