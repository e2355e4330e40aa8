"""What each branch of a model in parts makes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgemm.box.bundle.parts import Arrays, Parts
from edgemm.box.measuring.batching import Batching
from edgemm.contracts.dataset import Batch


class Embedding:
    """The branches of ``parts``, each as ``Batching`` runs it.

    Args:
        rows: How many will be asked about, at most.
    """

    def __init__(self, parts: Parts, rows: int) -> None:
        self.precision = parts.precision()
        self._run = {name: Batching(partial(parts.embed, name), rows=rows, precision=self.precision) for name in parts.cuts}
        self._feed = parts.branch_feed

    def of(self, batches: Sequence[Batch]) -> list[dict[str, Arrays]]:
        """For each batch of one row: input -> its cut tensors, without the inputs that the row lacks."""
        embedded: list[dict[str, Arrays]] = [{} for _ in batches]
        for name, run in self._run.items():
            there = [index for index, batch in enumerate(batches) if name not in batch.present or batch.present[name].all()]
            for index, cuts in zip(there, run.answers([self._feed(name, batches[index].inputs) for index in there]), strict=True):
                embedded[index][name] = cuts
        return embedded
