"""manifest.csv and manifest.jsonl: a row is a line, or some lines."""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

from edgemm.data.manifest import SPLIT, Manifest, Record, Row
from edgemm.errors import DataError

BLOCK_ROWS = 64  # rows between two remembered places; a shuffled pool is made of whole blocks
COLUMN_ROWS = 1000  # JSON rows asked for their columns; one that only later rows have must be of an optional input
FIELD_LIMIT = 1 << 24  # characters in a cell; csv's own limit of 131072 is too short for a long sensor window


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
            columns: dict[str, None] = {}
            for record in itertools.islice(self._records(_Lines(file, 1)), COLUMN_ROWS):
                columns.update(dict.fromkeys(record.row.cells))
            file.seek(0)
            self._set_columns(list(columns))
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
