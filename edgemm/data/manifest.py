"""Rows of a dataset as a stream: what every manifest shares.

A manifest is read once from end to end when it is opened; kept are only the places of its blocks of rows and how many rows of each
split a block holds, so that memory does not grow with the number of rows (0.3 MiB for a million).
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgemm.data import index
from edgemm.errors import DataError, nearest

SPLITS = ("train", "val", "test", "calib")
SPLIT = "split"
OTHER_WORDS = {"train": ("training",), "val": ("validation", "valid"), "test": ("testing",), "calib": ("calibration",)}
"""What others call the splits."""
POOL_ROWS = 4096  # rows in memory while shuffling: up to so many rows a shuffle is uniform, above it nearly
HELD_BELOW = (1 << 32) // 10  # rows of train whose hash is lower are val, where the manifest has none


class ManifestRow(NamedTuple):
    """One row: its number as a person counts (the line in a text file), its cells, and what is wrong with it ("" when nothing is)."""

    number: int
    cells: Mapping[str, Any]
    trouble: str = ""


class RowSource(Protocol):
    """Where rows come from."""

    name: str
    folder: Path
    columns: tuple[str, ...]
    absent: dict[str, str]
    """Split -> why it has no rows, where more is known than that it has none."""

    @property
    def is_val_held_out(self) -> bool:
        """Whether the rows of val are some of those that are train's."""
        ...

    def has(self, split: str) -> bool:
        """Whether the split has any rows."""
        ...

    def count(self, split: str) -> int:
        """Number of rows in a split."""
        ...

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[ManifestRow]:
        """The rows of a split, in order, or shuffled by ``rng``."""
        ...

    def digest(self) -> str:
        """Hash of the rows' content."""
        ...

    def naming(self, split: str) -> Iterator[ManifestRow]:
        """The rows whose cells may name files that the digest does not cover."""
        ...

    def some(self, split: str, most: int) -> Iterator[ManifestRow]:
        """About ``most`` of ``naming``, from all over the split."""
        ...

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        """Whether a cell of the column may name a file; ``ends``: in what such a name ends, None = in anything."""
        ...


class Record(NamedTuple):
    """A row with the split it names and a hash of its content."""

    row: ManifestRow
    split: str
    hash: int


def split_named(word: Any) -> str:
    """The split that a word means; the word itself where it means none."""
    plain = "" if word is None else str(word.decode("utf-8", "replace") if isinstance(word, bytes) else word).strip().lower()
    return next((split for split, others in OTHER_WORDS.items() if plain in others), plain)


def split_among(columns: Iterable[str]) -> str | None:
    """The column that names the split: ``split``, or the only one that is so but for case and blanks around it."""
    columns = list(columns)
    alike = [column for column in columns if str(column).strip().lower() == SPLIT]
    return SPLIT if SPLIT in columns else alike[0] if len(alike) == 1 else None


class Manifest:
    """Splits and reading by blocks, in order or shuffled; the formats below add how a block is found and read."""

    pool_rows = POOL_ROWS
    kept: tuple[str, ...] = ("columns", "_split_column", "_held_below", "_by_number", "_lowest", "seen")
    """What reading it whole finds out, beside its blocks."""
    seen = ""
    """How the file was read, for the message about a column that is not there."""

    def __init__(self, path: Path, bad: dict[int, str] | None, *, is_table: bool = False) -> None:
        """
        Args:
            bad: Where a row that names no split is noted, so that it is left out; None = such a row is an error.
            is_table: It is no dataset, and needs no split: something to look rows up in (``table``).
        """
        self.path, self.name, self.folder, self._bad, self._is_table = path, str(path), path.parent, bad, is_table
        self.absent: dict[str, str] = {}
        self.columns: tuple[str, ...] = ()
        self._split_column = SPLIT
        self._held_below, self._by_number = 0, False
        if is_table:
            return
        place = index.place(self.files, type(self).__name__)
        if place is None or not self._recall(place):
            self._read_whole()
            self._keep(place)

    def _read_whole(self) -> None:
        """Find out where the blocks are, and what they hold."""
        self._scan()
        if not any(self._counts["val"]) and any(self._counts["train"]):
            self._hold_out()
            if sum(self._counts["val"]) > sum(self._counts["train"]):  # many rows alike, which would all go one way
                self._by_number = True
                self._hold_out()

    @property
    def files(self) -> Sequence[Path]:
        """Whose content the rows are."""
        return [self.path]

    @property
    def is_val_held_out(self) -> bool:
        return self._held_below > 0

    def has(self, split: str) -> bool:
        return any(self._counts.get(split, ()))

    def count(self, split: str) -> int:
        return sum(self._counts.get(split, ()))

    def rows(self, split: str, *, rng: np.random.Generator | None = None) -> Iterator[ManifestRow]:
        counted = self._counts[split]
        blocks = (
            [block for block, count in enumerate(counted) if count] if rng is None else rng.permutation(np.flatnonzero(counted)).tolist()
        )
        if rng is None:
            yield from self._of_split(blocks, split)
            return
        pool: list[int] = []
        for number, block in enumerate(blocks):
            pool.append(block)
            if number == len(blocks) - 1 or sum(counted[entry] for entry in pool) >= self.pool_rows:
                rows = list(self._of_split(sorted(pool), split))
                yield from (rows[drawn] for drawn in rng.permutation(len(rows)))
                pool, rows = [], []  # before the next ones are read

    def table(self) -> Iterator[tuple[str, ManifestRow]]:
        """Every row, with the split it names ("" where it names none)."""
        return ((record.split, record.row) for _, record in self._all())

    def digest(self) -> str:
        return index.digest(self.files)

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        return ends is None or bool(ends)

    def naming(self, split: str) -> Iterator[ManifestRow]:
        return self.rows(split)

    def some(self, split: str, most: int) -> Iterator[ManifestRow]:
        blocks = [block for block, count in enumerate(self._counts[split]) if count]
        every = max(1, -(-self.count(split) // max(1, most)))
        return self._of_split(blocks[::every], split)

    def _recall(self, place: Path) -> bool:
        """Take over what an earlier opening of this very file found out."""
        found = index.read(place)
        if found is None:
            return False
        facts, self._begins, self._counts = found
        for name, value in facts.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        return True

    def _keep(self, place: Path | None) -> None:
        if place is not None and not self._bad:  # what was refused has to be told each time
            index.write(place, {name: getattr(self, name) for name in self.kept}, self._begins, self._counts)

    def _hold_out(self) -> None:
        """Let a tenth of train be val."""
        self._scan(held_below=HELD_BELOW)
        if not any(self._counts["val"]) and sum(self._counts["train"]) > 1:  # too few rows for a tenth: the one of lowest hash
            self._scan(held_below=self._lowest + 1)

    def _hash(self, record: Record) -> int:
        return zlib.crc32(str(record.row.number).encode()) if self._by_number else record.hash

    def _of_split(self, blocks: Iterable[int], split: str) -> Iterator[ManifestRow]:
        return (record.row for record in self._read(blocks) if self._placed(record) == split)

    def _placed(self, record: Record) -> str:
        return "val" if record.split == "train" and self._hash(record) < self._held_below else record.split

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
                self._lowest = min(self._lowest, self._hash(record))
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
        self._split_column = split_among(columns) or ""
        if not any(columns):
            raise DataError(f"{self.name} has no rows.", why="it is empty.", fix="add rows; each names its split, inputs and outputs.")
        if not self._split_column and not self._is_table:
            raise DataError(
                f"{self.name}: there is no column '{SPLIT}'.",
                why=f"columns{self.seen}: {', '.join(columns)}.",
                fix="add a column split with train, val or test in each row.",
            )
        self.columns = tuple(SPLIT if column == self._split_column else column for column in columns)

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        """All records; where one begins a block, with the block's place."""
        raise NotImplementedError

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        """The records of some blocks, given in ascending order."""
        raise NotImplementedError
