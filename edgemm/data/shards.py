"""Tar shards as webdataset writes them: files of one stem are a row, the rest of a name is the column; a shard is named by its split."""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from edgemm.data.manifest import SPLIT, SPLITS, Manifest, ManifestRow, Record, split_named
from edgemm.errors import DataError
from edgemm.store import json_text

BLOCK_ROWS = 64
COLUMN_ROWS = 100  # rows asked for their columns
TEXT = ("txt", "text", "cls", "cls2", "index", "id")
WORD = re.compile(r"[A-Za-z]+")


def split_of(path: Path) -> str:
    """The split that a file's name begins with (``train-00000-of-00003``, ``val.3``); "" where it begins with none."""
    word = WORD.match(path.name)
    split = split_named(word[0]) if word else ""
    return split if split in SPLITS else ""


def shards_in(folder: Path) -> list[Path]:
    """The tar files of a folder."""
    return sorted(folder.glob("*.tar"))


class TarManifest(Manifest):
    """Rows are counted from 1, through all shards; a block's place is (shard, offset of its first header)."""

    pool_rows = 4096
    kept = (*Manifest.kept, "_rows_before")

    def __init__(self, path: Path, bad: dict[int, str] | None, *, shards: Sequence[Path], is_table: bool = False) -> None:
        """
        Args:
            path: The shard, or the folder of all.
            bad, is_table: As of ``Manifest``.
        """
        self._shards = list(shards)
        self._rows_before: tuple[int, ...] = ()
        super().__init__(path, bad, is_table=is_table)
        self.folder = path if path.is_dir() else path.parent

    @property
    def files(self) -> Sequence[Path]:
        return self._shards

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        return False  # what a row needs lies in its shard

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        self._find_columns()
        count, before = 0, list[int]()
        for number in range(len(self._shards)):
            for place, (offset, record) in enumerate(self._of(number, 0, count)):
                begins = place % BLOCK_ROWS == 0
                before += [count] if begins else []
                yield ((number, offset) if begins else None), record
                count += 1
        self._rows_before = tuple(before)
        if not count:
            raise DataError(f"{self.name} has no rows.", fix="write files of one stem for each row: 000.jpg, 000.cls.")

    def _read(self, blocks: Iterable[int]) -> Iterator[Record]:
        for number, chosen in groupby(blocks, key=lambda block: self._begin(block)[0]):
            for block in chosen:
                rows = self._of(number, self._begin(block)[1], self._rows_before[block])
                for _, (_, record) in zip(range(BLOCK_ROWS), rows, strict=False):
                    yield record

    def _find_columns(self) -> None:
        if self.columns:
            return
        columns: dict[str, None] = {}
        self._split_column = SPLIT
        for _, (_, record) in zip(range(COLUMN_ROWS), self._of(0, 0, 0), strict=False):
            columns.update(dict.fromkeys(record.row.cells))
        self._set_columns(list(dict.fromkeys([*columns, SPLIT])))

    def _of(self, number: int, offset: int, before: int) -> Iterator[tuple[int, Record]]:
        """Offset and record of a shard's rows from one on."""
        shard, split = self._shards[number], split_of(self._shards[number])
        for at, stem, members in _samples(shard, offset):
            before += 1
            cells, trouble = _cells(members)
            named = split or split_named(cells.get(SPLIT))
            yield at, Record(ManifestRow(before, cells, trouble), named, zlib.crc32(f"{shard.name}/{stem}".encode()))


def _samples(shard: Path, offset: int) -> Iterator[tuple[int, str, dict[str, bytes]]]:
    """Offset, stem and files of each row of a shard, from one's offset on."""
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            at, stem, members = offset, "", dict[str, bytes]()
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    folder, _, name = member.name.rpartition("/")
                    own, _, column = name.partition(".")
                    if members and f"{folder}/{own}" != stem:
                        yield at, stem, members
                        members = {}
                    if not members:
                        at, stem = offset + member.offset, f"{folder}/{own}"
                    content = tar.extractfile(member)
                    members[column.lower()] = content.read() if content else b""
            if members:
                yield at, stem, members
    except (OSError, tarfile.TarError) as err:
        raise DataError(f"{shard} cannot be read as tar.", why=f"{err}".rstrip(".") + ".", fix="write it anew.") from err


def _cells(members: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    """A row's cells and what is wrong: texts decoded, the keys of a JSON file as columns of their own, the rest as it lies there.

    What lies in ``image.png`` is the column ``image`` too, unless the row has another of that name.
    """
    cells: dict[str, Any] = {}
    trouble = ""
    for column, content in members.items():
        try:
            if column == "json":
                plain = json_text.loads(content.decode())
                cells |= plain if isinstance(plain, dict) else {column: plain}
            else:
                cells[column] = content.decode().strip() if column.rpartition(".")[2] in TEXT else content
        except (ValueError, json.JSONDecodeError) as err:
            trouble = f"its {column} cannot be read: {err}."
    named = {column.rpartition(".")[0]: cell for column, cell in cells.items() if column in members and "." in column}
    return named | cells, trouble
