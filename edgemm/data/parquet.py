"""manifest.parquet, or many files of it, read by row groups with pyarrow."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from edgemm.data.manifest import SPLIT, SPLITS, Manifest, ManifestRow, Record, split_named
from edgemm.data.shards import split_of
from edgemm.errors import DataError

CHUNK_ROWS = 1024  # rows decoded at once; a block's place is (row group, first row in it)


class ParquetManifest(Manifest):
    """Rows are counted from 1, through all files. A file whose name begins with a split (``train-00000-of-00003``) needs no such column."""

    pool_rows = 16 * CHUNK_ROWS

    def __init__(self, path: Path, bad: dict[int, str] | None, *, is_table: bool = False, parts: Sequence[Path] = ()) -> None:
        """
        Args:
            path: The file, or the folder of the parts.
            bad, is_table: As of ``Manifest``.
            parts: The files in that folder.
        """
        self._parts = list(parts) or [path]
        opened = [_opened(part) for part in self._parts]
        self._columns = list(opened[0].schema_arrow.names)
        for part, file in zip(self._parts, opened, strict=True):
            if list(file.schema_arrow.names) != self._columns:
                why = f"{', '.join(file.schema_arrow.names)} in {part.name}; {', '.join(self._columns)} in {self._parts[0].name}."
                raise DataError(f"{path}: its files have different columns.", why=why, fix="write them with the same columns in one order.")
        splits = [split_of(part) if parts else "" for part in self._parts]
        self._by_name = all(splits) and SPLIT not in self._columns
        self._file = opened[0]
        self._groups = [
            (file, group, split if self._by_name else "")
            for file, split in zip(opened, splits, strict=True)
            for group in range(file.metadata.num_row_groups)
        ]
        self._firsts = [0]
        for file, group, _ in self._groups:
            self._firsts.append(self._firsts[-1] + file.metadata.row_group(group).num_rows)
        super().__init__(path, bad, is_table=is_table)
        self.folder = path if parts else path.parent

    @property
    def files(self) -> Sequence[Path]:
        return self._parts

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        schema = self._file.schema_arrow
        kind = schema.field(column).type if column in schema.names else pyarrow.string()
        while pyarrow.types.is_nested(kind) and kind.num_fields == 1:
            kind = kind.field(0).type
        is_number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        return not is_number and super().may_name(column, ends)

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        self._set_columns([*self._columns, *([SPLIT] if self._by_name else [])])
        if not self._firsts[-1]:
            raise DataError(f"{self.name} has no rows.", fix="add rows; each names its split, inputs and outputs.")
        is_plain = not (self._held_below or self._is_table)  # hashes are wanted only where rows of train become val
        for number in range(len(self._groups)):
            offset = 0
            for rows, records in self._counted(number) if is_plain and self._by_name else self._chunks(number, plain=is_plain):
                for place, record in enumerate(records):
                    yield ((number, offset) if place == 0 else None), record
                offset += rows

    def _counted(self, number: int) -> Iterator[tuple[int, Iterator[Record]]]:
        """The chunks of a row group as far as their file's name tells of them: nothing is read."""
        split, left = self._groups[number][2], self._firsts[number + 1] - self._firsts[number]
        first = self._firsts[number]
        while left:
            rows = min(CHUNK_ROWS, left)
            yield rows, (Record(ManifestRow(first + place, {}), split, 0) for place in range(1, rows + 1))
            first, left = first + rows, left - rows

    def _chunks(self, number: int, *, plain: bool) -> Iterator[tuple[int, Iterator[Record]]]:
        offset = 0
        for batch in self._batches(number, [self._split_column] if plain else None):
            yield batch.num_rows, self._records(batch, self._firsts[number] + offset, self._groups[number][2])
            offset += batch.num_rows

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        for number, begins in groupby((self._begin(block) for block in blocks), key=lambda begin: begin[0]):
            starts = {first for _, first in begins}
            offset = 0
            for rows, records in self._chunks(number, plain=False):
                if offset in starts:
                    yield from records
                offset += rows
                if offset > max(starts):
                    break

    def _batches(self, number: int, columns: list[str] | None) -> Iterator[pyarrow.RecordBatch]:
        file, group, _ = self._groups[number]
        try:
            yield from file.iter_batches(batch_size=CHUNK_ROWS, row_groups=[group], columns=columns, use_threads=False)
        except (OSError, pyarrow.ArrowException) as err:
            raise DataError(
                f"{self.name}: row group {number} cannot be read.", why=f"{err}".rstrip(".") + ".", fix="write it anew."
            ) from err

    def _records(self, batch: pyarrow.RecordBatch, first: int, split: str) -> Iterator[Record]:
        for number, cells in enumerate(batch.to_pylist(), first + 1):
            named = split or split_named(cells.get(self._split_column))
            yield Record(ManifestRow(number, cells), named, _hash_of(cells) if self._held_below else 0)


def parts_in(folder: Path) -> list[Path]:
    """The parquet files of a folder, or of ``data`` in it, that are one dataset: ``manifest-*``, or each named after a split."""
    for place in (folder, folder / "data"):
        files = sorted(place.glob("*.parquet"))
        manifests = [file for file in files if file.stem.startswith("manifest-")]
        if manifests or (files and all(split_of(file) in SPLITS for file in files)):
            return manifests or files
    return []


def _opened(path: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(path, pre_buffer=False, memory_map=False)
    except (OSError, pyarrow.ArrowException) as err:
        raise DataError(f"{path} cannot be read as parquet.", why=f"{err}".rstrip(".") + ".", fix="write it anew.") from err


def _hash_of(cells: dict[str, Any]) -> int:
    return zlib.crc32("\x1f".join(f"{key}={value}" for key, value in cells.items()).encode())
