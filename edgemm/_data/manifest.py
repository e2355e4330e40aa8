"""Rows of a dataset as a stream: manifest.csv, .jsonl and .parquet. ``data`` decodes what comes out.

A manifest is read once from end to end when it is opened; kept are only the places of its blocks of rows and how many rows of each
split a block holds, so that memory does not grow with the number of rows (0.3 MiB for a million).
"""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from edgemm import plugins
from edgemm.artifact import sha256_file
from edgemm.errors import DataError, nearest

SPLITS = ("train", "val", "test", "calib")
SPLIT = "split"
BLOCK_ROWS = 64  # rows between two remembered places; a shuffled pool is made of whole blocks
POOL_ROWS = 4096  # rows in memory while shuffling: up to so many rows a shuffle is uniform, above it nearly
COLUMN_ROWS = 1000  # JSON rows asked for their columns; one that only later rows have must be of an optional input
HELD_BELOW = (1 << 32) // 10  # rows of train whose hash is lower are val, where the manifest has none
FIELD_LIMIT = 1 << 24  # characters in a cell; csv's own limit of 131072 is too short for a long sensor window


class Row(NamedTuple):
    """One row: its number as a person counts (the line in a text file), its cells, and what is wrong with it ("" when nothing is)."""

    number: int
    cells: Mapping[str, Any]
    trouble: str = ""


class Source(Protocol):
    """Where rows come from."""

    name: str
    folder: Path
    columns: tuple[str, ...]
    absent: dict[str, str]
    """Split -> why it has no rows, where more is known than that it has none."""

    def has(self, split: str) -> bool:
        """Whether the split has any rows."""
        ...

    def count(self, split: str) -> int:
        """Number of rows in a split."""
        ...

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[Row]:
        """The rows of a split, in order, or shuffled by ``rng``."""
        ...

    def digest(self) -> str:
        """Hash of the rows' content."""
        ...

    def naming(self, split: str) -> Iterator[Row]:
        """The rows whose cells may name files that the digest does not cover."""
        ...


def open_manifest(path: Path, bad: dict[int, str] | None) -> Source:
    """The manifest in ``path``, by its suffix.

    Args:
        bad: Where a row that names no split is noted, so that it is left out; None = such a row is an error.

    Raises:
        DataError: Empty, duplicate columns, no column ``split``, or an unknown split.
    """
    return {".csv": CsvManifest, ".jsonl": JsonManifest, ".parquet": _parquet}[path.suffix](path, bad)


class Record(NamedTuple):
    """A row with the split it names and a hash of its content."""

    row: Row
    split: str
    hash: int


class Manifest:
    """Splits and reading by blocks, in order or shuffled; the formats below add how a block is found and read."""

    pool_rows = POOL_ROWS

    def __init__(self, path: Path, bad: dict[int, str] | None) -> None:
        self.path, self.name, self.folder, self._bad = path, str(path), path.parent, bad
        self.absent: dict[str, str] = {}
        self.columns: tuple[str, ...] = ()
        self._held_below = 0
        self._scan()
        if not any(self._counts["val"]) and any(self._counts["train"]):
            self._scan(held_below=HELD_BELOW)
            if not any(self._counts["val"]) and sum(self._counts["train"]) > 1:  # too few rows for a tenth: the one of lowest hash
                self._scan(held_below=self._lowest + 1)

    def has(self, split: str) -> bool:
        return any(self._counts.get(split, ()))

    def count(self, split: str) -> int:
        return sum(self._counts.get(split, ()))

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[Row]:
        counted = self._counts[split]
        blocks = (
            [block for block, count in enumerate(counted) if count] if rng is None else rng.permutation(np.flatnonzero(counted)).tolist()
        )
        if rng is None:
            yield from self._of_split(blocks, split)
            return
        pool: list[int] = []
        for place, block in enumerate(blocks):
            pool.append(block)
            if place == len(blocks) - 1 or sum(counted[entry] for entry in pool) >= self.pool_rows:
                rows = list(self._of_split(sorted(pool), split))
                yield from (rows[number] for number in rng.permutation(len(rows)))
                pool, rows = [], []  # before the next ones are read

    def digest(self) -> str:
        return sha256_file(self.path)

    def naming(self, split: str) -> Iterator[Row]:
        return self.rows(split)

    def _of_split(self, blocks: Iterable[int], split: str) -> Iterator[Row]:
        return (record.row for record in self._read(blocks) if self._placed(record) == split)

    def _placed(self, record: Record) -> str:
        return "val" if record.split == "train" and record.hash < self._held_below else record.split

    def _begin(self, block: int) -> tuple[int, int]:
        return self._begins[2 * block], self._begins[2 * block + 1]

    def _scan(self, held_below: int = 0) -> None:
        """Read the whole manifest once and note its blocks; rows of train whose hash is lower than ``held_below`` count as val."""
        self._held_below = held_below
        self._begins = array("q")
        self._counts = {split: array("I") for split in SPLITS}
        self._lowest = 1 << 32
        for begin, record in self._all():
            if begin is not None:
                self._begins.extend(begin)
                for counted in self._counts.values():
                    counted.append(0)
            if record.split not in SPLITS:
                self._refuse(record)
                continue
            if record.split == "train":
                self._lowest = min(self._lowest, record.hash)
            self._counts[self._placed(record)][-1] += 1

    def _refuse(self, record: Record) -> None:
        what = f"'{record.split}' is no split." if record.split else "it names no split."
        error = DataError(
            f"{self.name}, row {record.row.number}, column '{SPLIT}': {what}", why=record.row.trouble, fix=nearest(record.split, SPLITS)
        )
        if self._bad is None:
            raise error
        self._bad[record.row.number] = f"{error.what} {error.why}".strip()

    def _set_columns(self, columns: list[str]) -> None:
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise DataError(
                f"{self.name}: column '{twice[0]}' stands there twice.", why=f"columns: {', '.join(columns)}.", fix="rename or remove one."
            )
        if SPLIT not in columns:
            raise DataError(
                f"{self.name}: there is no column '{SPLIT}'.",
                why=f"columns: {', '.join(columns)}.",
                fix="add a column split with train, val or test in each row.",
            )
        self.columns = tuple(columns)

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        """All records; where one begins a block, with the block's place."""
        raise NotImplementedError

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        """The records of some blocks, given in ascending order."""
        raise NotImplementedError


class TextManifest(Manifest):
    """A manifest of lines; a block's place is (byte offset, line number)."""

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        count = 0
        with self._open() as file:
            lines = _Lines(file, self._first_line(file))
            records = self._records(lines)
            while True:
                begin = (lines.offset, lines.number)
                record = next(records, None)
                if record is None:
                    break
                yield (begin if count % BLOCK_ROWS == 0 else None), record
                count += 1
        if not count:
            raise DataError(f"{self.name} has no rows.", fix="add rows; each names its split, inputs and outputs.")

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        with self._open() as file:
            for block in blocks:
                offset, number = self._begin(block)
                file.seek(offset)
                records = self._records(_Lines(file, number))
                for _, record in zip(range(BLOCK_ROWS), records, strict=False):
                    yield record

    def _open(self) -> IO[bytes]:
        try:
            return self.path.open("rb")
        except OSError as err:
            raise DataError(f"{self.name} cannot be read.", why=f"{err.strerror}.", fix="check the path and its permissions.") from err

    def _first_line(self, file: IO[bytes]) -> int:
        """Read what stands before the first row; returns that row's line number."""
        raise NotImplementedError

    def _records(self, lines: _Lines) -> Iterator[Record]:
        raise NotImplementedError


class _Lines:
    """Decoded lines of a file, knowing where the next one begins and what has been read since ``start``."""

    def __init__(self, file: IO[bytes], number: int) -> None:
        self.file, self.number, self.offset = file, number, file.tell()
        self.start()

    def start(self) -> None:
        """Begin a new record."""
        self.hash, self.trouble = 0, ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.offset += len(line)
        self.number += 1
        self.hash = zlib.crc32(line.rstrip(b"\r\n"), self.hash)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as err:
            self.trouble = f"line {self.number - 1} is not UTF-8: {err.reason} at byte {err.start}."
            text = line.decode("utf-8", "replace")
        if "\0" in text:
            self.trouble = f"line {self.number - 1} holds a zero byte."
            text = text.replace("\0", "")
        return text


class CsvManifest(TextManifest):
    """Comma-separated, with a header, quoted as RFC 4180 says; a byte order mark is skipped."""

    def _first_line(self, file: IO[bytes]) -> int:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        lines = _Lines(file, 1)
        try:
            header = next(csv.reader(lines, strict=True), [])
        except csv.Error as err:
            raise DataError(
                f"{self.name}: the header is not CSV.", why=f"{err}.", fix="write the columns' names with commas between."
            ) from err
        self._set_columns([column.strip() for column in header])
        file.seek(lines.offset)
        return lines.number

    def _records(self, lines: _Lines) -> Iterator[Record]:
        if csv.field_size_limit() < FIELD_LIMIT:
            csv.field_size_limit(FIELD_LIMIT)
        at = self.columns.index(SPLIT)
        reader = csv.reader(lines)
        while True:
            number, trouble = lines.number, ""
            lines.start()
            try:
                fields = next(reader, None)
            except csv.Error as err:
                fields, trouble = [], f"{err}."
            if fields is None:
                return
            if not fields and not trouble:
                continue  # a blank line
            trouble = lines.trouble or trouble
            if not trouble and len(fields) != len(self.columns):
                trouble = f"it has {len(fields)} fields, the header has {len(self.columns)}."
            split = fields[at].strip() if at < len(fields) else ""
            yield Record(Row(number, dict(zip(self.columns, fields, strict=False)), trouble), split, lines.hash)


class JsonManifest(TextManifest):
    """One JSON object a line."""

    def _first_line(self, file: IO[bytes]) -> int:
        if not self.columns:
            found: dict[str, None] = {}
            for record in itertools.islice(self._records(_Lines(file, 1)), COLUMN_ROWS):
                found.update(dict.fromkeys(record.row.cells))
            file.seek(0)
            self._set_columns(list(found))
        return 1

    def _records(self, lines: _Lines) -> Iterator[Record]:
        while True:
            number = lines.number
            lines.start()
            line = next(lines, None)
            if line is None:
                return
            if not line.strip():
                continue
            cells, trouble = _json_object(line.lstrip("\ufeff"))
            yield Record(Row(number, cells, lines.trouble or trouble), str(cells.get(SPLIT, "")), lines.hash)


def _json_object(line: str) -> tuple[dict[str, Any], str]:
    twice: list[str] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        cells = dict(pairs)
        if len(cells) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.append(next(key for key in keys if keys.count(key) > 1))
        return cells

    try:
        cells = json.loads(line, object_pairs_hook=gather)
    except json.JSONDecodeError as err:
        return {}, f"it is not JSON: {err.msg} at column {err.colno}."
    if not isinstance(cells, dict):
        return {}, "it is not a JSON object."
    return cells, f"'{twice[0]}' stands there twice." if twice else ""


def _parquet(path: Path, bad: dict[int, str] | None) -> Source:
    try:
        from edgemm._data.parquet import ParquetManifest
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "reading parquet") from err
    return ParquetManifest(path, bad)
