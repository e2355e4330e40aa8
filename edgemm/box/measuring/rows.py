"""The rows that a worker answers, decoded once for all candidates that follow each other in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgemm.contracts import card_file as cards
from edgemm.contracts.dataset import Batch, Dataset
from edgemm.data.dataset import open_dataset

MOST_KEPT = 256 * 2**20
"""Bytes of decoded rows that are kept; of more, all are decoded anew."""


class Rows:
    """Batches of the split that was asked for last."""

    def __init__(self) -> None:
        self._of, self._kept = "", list[Batch]()
        self._opened: tuple[str, Dataset] | None = None

    def dataset(self, data: str, card: dict[str, Any], card_path: str | None, skip_bad_rows: bool) -> Dataset:
        """That dataset, opened once; arguments as in ``open_dataset``."""
        key = json.dumps([data, card, card_path, skip_bad_rows])
        if self._opened is None or self._opened[0] != key:
            parsed = cards.parse(card, path=Path(card_path) if card_path else None)
            self._opened, self._of = (key, open_dataset(data, parsed, skip_bad_rows=skip_bad_rows)), ""
        return self._opened[1]

    def batches(
        self, dataset: Dataset, split: str, batch_size: int, *, shuffle: int | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Stream a split of what ``dataset`` gave; arguments as in ``Dataset.batches``."""
        limit = None if limit is not None and limit >= dataset.count(split) else limit
        key = json.dumps([split, batch_size, shuffle, limit])
        if self._of == key:
            yield from self._kept
            return
        self._of, self._kept = "", []
        size, kept = 0, list[Batch]()
        for batch in dataset.batches(split, batch_size, shuffle=shuffle, limit=limit):
            size += sum(array.nbytes for array in (*batch.inputs.values(), *batch.truth.values()))
            if size <= MOST_KEPT:
                kept.append(batch)
            else:
                kept.clear()
            yield batch
        if size <= MOST_KEPT:
            self._of, self._kept = key, kept
