"""The rows that a worker answers, decoded once for all candidates that follow each other in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgemm.contracts import card as cards
from edgemm.contracts.dataset import Batch
from edgemm.data.dataset import open_dataset

MOST_KEPT = 256 * 2**20
"""Bytes of decoded rows that are kept; of more, all are decoded anew."""


class Rows:
    """Batches of the split that was asked for last.

    Attributes:
        bad: The rows left out of it, in words.
    """

    def __init__(self) -> None:
        self.bad: list[str] = []
        self._of, self._kept = "", list[Batch]()

    def batches(
        self, data: str, card: dict[str, Any], card_path: str | None, split: str, batch_size: int, limit: int | None, skip_bad_rows: bool
    ) -> Iterator[Batch]:
        """Stream a split; arguments as in ``Dataset.batches`` and ``open_dataset``."""
        key = json.dumps([data, card, card_path, split, batch_size, limit, skip_bad_rows])
        if self._of == key:
            yield from self._kept
            return
        self._of, self._kept = "", []
        dataset = open_dataset(data, cards.parse(card, path=Path(card_path) if card_path else None), skip_bad_rows=skip_bad_rows)
        size, kept = 0, list[Batch]()
        for batch in dataset.batches(split, batch_size, limit=limit):
            size += sum(array.nbytes for array in (*batch.inputs.values(), *batch.truth.values()))
            if size <= MOST_KEPT:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        self.bad = list(dataset.bad_rows)
        if size <= MOST_KEPT:
            self._of, self._kept = key, kept
