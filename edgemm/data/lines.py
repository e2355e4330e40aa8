"""manifest.csv and manifest.jsonl: a row is a line, or some lines."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import re
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgemm.data import index, plain_lines
from edgemm.data.manifest import SPLIT, SPLITS, Manifest, ManifestRow, Record, split_among, split_named
from edgemm.errors import DataError
from edgemm.store import json_text, utf8

BLOCK_ROWS = 64  # rows between two remembered places; a shuffled pool is made of whole blocks
COLUMN_ROWS = 1000  # JSON rows asked for their columns; one that only later rows have must be of an optional input
PIECE = 1 << 20
HEAD = 1 << 16  # bytes by which the encoding is found
UTF8 = "utf-8"
BETWEEN = {",": ",", ";": ";", "\t": "tab", "|": "|"}
DELIMITER = re.compile(rb"sep=(.)", re.IGNORECASE)
FIELD_LIMIT = 1 << 24  # characters in a cell; csv's own limit of 131072 is too short for a long sensor window


class TextManifest(Manifest):
    """A manifest of lines; a block's place is (byte offset, line number)."""

    def __init__(self, path: Path, bad: dict[int, str] | None, *, is_table: bool = False) -> None:
        self._rewritten: Path | None = None
        with self._open_at(path) as file:
            head = file.read(HEAD)
        self.encoding = _encoding(head)
        if self.encoding != UTF8 or (b"\r" in head and b"\n" not in head):
            self._rewrite(path, _decoded(path, self.encoding).replace("\r\n", "\n").replace("\r", "\n"))
        self.seen = "" if self.encoding == UTF8 else f", read as {self.encoding.upper()}"
        super().__init__(path, bad, is_table=is_table)

    def _keep(self, place: Path | None) -> None:
        super()._keep(place if self._rewritten is None else None)  # the places are those in a copy that goes

    def _rewrite(self, path: Path, text: str) -> None:
        """Read from a copy in UTF-8, with one row a line, that goes when this does."""
        self._rewritten = scratch_copy(self, text, path.suffix)

    def _all(self) -> Iterator[tuple[tuple[int, int] | None, Record]]:
        count = 0
        self._prepare()
        with self._open() as file:
            lines = _Lines(file, self._first_line(file), self.path)
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
                records = self._records(_Lines(file, number, self.path))
                for _, record in zip(range(BLOCK_ROWS), records, strict=False):
                    yield record

    def _open(self) -> IO[bytes]:
        return self._open_at(self._rewritten or self.path)

    def _open_at(self, path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as err:
            raise DataError(f"{path} cannot be read.", why=f"{err.strerror}.", fix="check the path and its permissions.") from err

    def _prepare(self) -> None:
        """Called before the file is read from its beginning."""

    def _first_line(self, file: IO[bytes]) -> int:
        """Read what stands before the first row; returns that row's line number."""
        raise NotImplementedError

    def _records(self, lines: _Lines) -> Iterator[Record]:
        raise NotImplementedError


def scratch_copy(owner: object, text: str, suffix: str) -> Path:
    """A file with this text in UTF-8 that goes when its owner does."""
    with tempfile.NamedTemporaryFile("wb", suffix=suffix, delete=False) as copy:
        copy.write(text.encode("utf-8", "surrogatepass"))
    weakref.finalize(owner, Path(copy.name).unlink, missing_ok=True)
    return Path(copy.name)


class _Lines:
    """Decoded lines of a file, knowing where the next one begins and what has been read since ``start``."""

    def __init__(self, file: IO[bytes], number: int, path: Path) -> None:
        self.file, self.number, self.path, self.offset = file, number, path, file.tell()
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
            self.trouble = f"{utf8.why(err, f'line {self.number - 1}')} {utf8.fix(self.path, err)}"
            text = line.decode("utf-8", "replace")
        if "\0" in text:
            self.trouble = f"line {self.number - 1} holds a zero byte."
            text = text.replace("\0", "")
        return text


class CsvManifest(TextManifest):
    """With a header, quoted as RFC 4180 says; a byte order mark is skipped. Comma, semicolon, tab or | stand between: as in the header."""

    delimiter = ","
    kept = (*TextManifest.kept, "delimiter")

    def may_name(self, column: str, ends: tuple[str, ...] | None) -> bool:
        if ends is None or self._rewritten is not None:
            return super().may_name(column, ends)
        return any(index.remembered(self.files, f"holds {end}", partial(self._holds, end)) == "yes" for end in ends)

    def _holds(self, word: str) -> str:
        with self._open() as file:
            return "yes" if _holds(file, word.lower().encode()) else "no"

    def _scan(self, held_below: int = 0) -> None:
        with self._open() as file:
            number = self._first_line(file)
            at = self.columns.index(SPLIT) if SPLIT in self.columns else len(self.columns)
            found = plain_lines.scan(
                file, number, at, self.delimiter.encode(), block_rows=BLOCK_ROWS, held_below=held_below, by_number=self._by_number
            )
        if found is None:
            super()._scan(held_below)
        else:
            self._held_below, self._begins, self._counts, self._lowest = held_below, found.begins, found.counts, found.lowest

    def _first_line(self, file: IO[bytes]) -> int:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        begin, first = file.tell(), file.readline()
        said = DELIMITER.fullmatch(first.rstrip(b"\r\n"))  # as spreadsheets say it
        if not said:
            file.seek(begin)
        self.delimiter = said[1].decode() if said else _delimiter(first.decode("utf-8", "replace"))
        between = BETWEEN.get(self.delimiter, self.delimiter)
        is_usual = self.delimiter == "," and self.encoding == UTF8 and not set(first.decode("utf-8", "replace")) & set(";\t|")
        self.seen = "" if is_usual else f", read with '{between}' between and as {self.encoding.upper()}"
        lines = _Lines(file, 1 + bool(said), self.path)
        try:
            header = next(csv.reader(lines, strict=True, delimiter=self.delimiter), [])
        except csv.Error as err:
            raise DataError(
                f"{self.name}: the header is not CSV.", why=f"{err}.", fix="write the columns' names with commas between."
            ) from err
        if lines.trouble:
            raise DataError(f"{self.name}: the header cannot be read.", why=lines.trouble, fix="convert the file.")
        self._set_columns([column.strip() for column in header])
        file.seek(lines.offset)
        return lines.number

    def _records(self, lines: _Lines) -> Iterator[Record]:
        if csv.field_size_limit() < FIELD_LIMIT:
            csv.field_size_limit(FIELD_LIMIT)
        at = self.columns.index(SPLIT) if SPLIT in self.columns else len(self.columns)
        reader = csv.reader(lines, delimiter=self.delimiter)
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
            split = split_named(fields[at]) if at < len(fields) else ""
            yield Record(ManifestRow(number, dict(zip(self.columns, fields, strict=False)), trouble), split, lines.hash)


class JsonManifest(TextManifest):
    """One JSON object a line, or a list of them; the list may be the one in an object, or there be one for each split."""

    def __init__(self, path: Path, bad: dict[int, str] | None, *, is_table: bool = False) -> None:
        self._whole = path.suffix == ".json"
        super().__init__(path, bad, is_table=is_table)

    def _prepare(self) -> None:
        """Rewrite what is one value as a row a line."""
        with self._open() as file:
            begin = file.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if self._whole or begin == b"[":
            self._whole = False
            text = _decoded(self._rewritten or self.path, "utf-8-sig")
            try:
                rows = _rows_in(json.loads(text))
            except json.JSONDecodeError as err:
                raise DataError(
                    f"{self.name}, line {err.lineno}: it is not JSON.", why=f"{err.msg} at column {err.colno}.", fix="mend the file."
                ) from err
            if rows is None:
                raise DataError(f"{self.name} holds no list of rows.", why="a row is a JSON object.", fix="write [{...}, {...}].")
            self._rewrite(self.path, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))

    def _first_line(self, file: IO[bytes]) -> int:
        if not self.columns:
            columns: dict[str, None] = {}
            for record in itertools.islice(self._records(_Lines(file, 1, self.path)), COLUMN_ROWS):
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
            split = split_named(cells.get(self._split_column))
            yield Record(ManifestRow(number, cells, lines.trouble or trouble), split, lines.hash)


def _rows_in(plain: Any) -> list[dict[str, Any]] | None:
    """The rows that a JSON value holds, however deep; None where it holds none, or several lists of them."""
    if isinstance(plain, list):
        return plain if plain and all(isinstance(row, dict) for row in plain) else None
    if not isinstance(plain, dict):
        return None
    held = {key: rows for key, entry in plain.items() if (rows := _rows_in(entry)) is not None}  # beside them may stand, say, a version
    if held and all(split_named(key) in SPLITS for key in held):
        return [{**row, SPLIT: split_named(key)} for key, rows in held.items() for row in rows]
    lists = [rows for key, rows in held.items() if isinstance(plain[key], list)] or list(held.values())
    return lists[0] if len(lists) == 1 else None


def _encoding(head: bytes) -> str:
    """What a text file is written in: UTF-8, or UTF-16 or UTF-32 by its mark or by where its zero bytes lie."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return name
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd > len(head) // 4:
        return "utf-16-le" if odd > even else "utf-16-be"
    return UTF8


def _decoded(path: Path, encoding: str) -> str:
    """
    Raises:
        DataError: It is not in that encoding.
    """
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as err:
        if encoding in (UTF8, "utf-8-sig"):
            raise DataError(f"{path} cannot be read.", why=utf8.why(err), fix=utf8.fix(path, err)) from err
        why = f"it is not {encoding.upper()} throughout: {err.reason} at byte {err.start}."
        raise DataError(f"{path} cannot be read.", why=why, fix="save it as UTF-8.") from err


def _holds(file: IO[bytes], word: bytes) -> bool:
    """Whether a word in lower case stands in a file in any case; of the file a piece at a time is in memory."""
    begins = {bytes(pair) for pair in itertools.product(*((char, bytes([char]).upper()[0]) for char in word[:2]))}
    piece = b""
    while more := file.read(PIECE):
        piece = piece[-len(word) + 1 :] + more
        if any(begin in piece for begin in begins) and word in piece.lower():
            return True
    return False


def _delimiter(header: str) -> str:
    """What stands between the columns of a header: with which ``split`` is one of them; the comma where none does."""
    found = {}
    for delimiter in BETWEEN:
        columns = next(csv.reader([header], delimiter=delimiter), [])
        if split_among(columns):
            found[delimiter] = len(columns)
    return max(found, key=lambda delimiter: found[delimiter], default=",")


def _json_object(line: str) -> tuple[dict[str, Any], str]:
    twice: list[str] = []

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        cells = dict(pairs)
        if len(cells) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.append(next(key for key in keys if keys.count(key) > 1))
        return cells

    try:
        cells = json_text.loads(line, object_pairs_hook=gather)
    except json.JSONDecodeError as err:
        return {}, f"it is not JSON: {err.msg} at column {err.colno}."
    except ValueError as err:
        return {}, f"it is not JSON: {err}."
    if not isinstance(cells, dict):
        return {}, "it is not a JSON object."
    return cells, f"'{twice[0]}' stands there twice." if twice else ""
