"""manifest.parquet, read by row groups with pyarrow."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from edgemm.data.manifest import Manifest, ManifestRow, Record, split_named
from edgemm.errors import DataError

CHUNK_ROWS = 1024  # rows decoded at once; a block's place is (row group, first row in it)


class ParquetManifest(Manifest):
    """Rows are counted from 1."""

    pool_rows = 16 * CHUNK_ROWS

    def __init__(self, path: Path, bad: dict[int, str] | None, *, is_table: bool = False) -> None:
        try:
            self._file = parquet.ParquetFile(path, pre_buffer=False, memory_map=False)
        except (OSError, pyarrow.ArrowException) as err:
            raise DataError(f"{path} cannot be read as parquet.", why=f"{err}".rstrip(".") + ".", fix="write it anew.") from err
        metadata = self._file.metadata
        self._firsts = [0]
        for group in range(metadata.num_row_groups):
            self._firsts.append(self._firsts[-1] + metadata.row_group(group).num_rows)
        super().__init__(path, bad, is_table=is_table)

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        schema = self._file.schema_arrow
        kind = schema.field(column).type if column in schema.names else pyarrow.string()
        while pyarrow.types.is_nested(kind) and kind.num_fields == 1:
            kind = kind.field(0).type
        is_number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        return not is_number and super().may_name(column, ends)

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        self._set_columns(list(self._file.schema_arrow.names))
        if not self._firsts[-1]:
            raise DataError(f"{self.name} has no rows.", fix="add rows; each names its split, inputs and outputs.")
        plain = (
            None if self._held_below or self._is_table else [self._split_column]
        )  # hashes are wanted only where rows of train become val
        for group in range(len(self._firsts) - 1):
            offset = 0
            for batch in self._batches(group, plain):
                for number, record in enumerate(self._records(batch, self._firsts[group] + offset)):
                    yield ((group, offset) if number == 0 else None), record
                offset += batch.num_rows

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        for group, begins in groupby((self._begin(block) for block in blocks), key=lambda begin: begin[0]):
            starts = {first for _, first in begins}
            offset = 0
            for batch in self._batches(group, None):
                if offset in starts:
                    yield from self._records(batch, self._firsts[group] + offset)
                offset += batch.num_rows
                if offset > max(starts):
                    break

    def _batches(self, group: int, columns: list[str] | None) -> Iterator[pyarrow.RecordBatch]:
        try:
            yield from self._file.iter_batches(batch_size=CHUNK_ROWS, row_groups=[group], columns=columns, use_threads=False)
        except (OSError, pyarrow.ArrowException) as err:
            raise DataError(
                f"{self.name}: row group {group} cannot be read.", why=f"{err}".rstrip(".") + ".", fix="write it anew."
            ) from err

    def _records(self, batch: pyarrow.RecordBatch, first: int) -> Iterator[Record]:
        for number, cells in enumerate(batch.to_pylist(), first + 1):
            yield Record(ManifestRow(number, cells), split_named(cells.get(self._split_column)), _hash_of(cells) if self._held_below else 0)


def _hash_of(cells: dict[str, Any]) -> int:
    return zlib.crc32("\x1f".join(f"{key}={value}" for key, value in cells.items()).encode())
