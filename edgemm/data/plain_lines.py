"""Where the blocks of a table are and which splits they hold, found from its bytes: a tenth of the work of reading every cell.

Only where each line is a row, as nothing in it is quoted, and each row names a split.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from edgemm.data.manifest import SPLITS, split_named

PIECE = 1 << 16


@dataclass
class Scan:
    """Blocks of rows, as ``Manifest`` keeps them.

    Attributes:
        begins: Of each block the byte and the line in which it begins.
        counts: Split -> its rows in each block.
        lowest: Lowest hash of a row of train, where ``held_below`` is not 0.
    """

    begins: array[int] = field(default_factory=lambda: array("q"))
    counts: dict[str, array[int]] = field(default_factory=lambda: {split: array("I") for split in SPLITS})
    lowest: int = 1 << 32


def scan(file: IO[bytes], number: int, at: int, between: bytes, *, block_rows: int, held_below: int, by_number: bool) -> Scan | None:
    """Read from where the file stands, before its first row, to its end; None where rows have to be read cell by cell.

    Args:
        number: Of the line that is read next.
        at: Place of the column that names the split.
        between: What stands between two cells.
        held_below: Rows of train whose hash is lower are val's.
        by_number: The hash is that of the line's number, else of the line.
    """
    found, named, offset, rows = Scan(), _Named(), file.tell(), 0
    train, val, begin = found.counts["train"], found.counts["val"], (offset, number)
    for lines in _plain(file):
        if lines is None:
            return None
        for line in lines:
            here, offset, number = number, offset + len(line) + 1, number + 1
            if line and line != b"\r":  # a blank line is no row
                if rows % block_rows == 0:
                    found.begins.extend(begin)
                    for counted in found.counts.values():
                        counted.append(0)
                rows += 1
                if rows % block_rows == 0:
                    begin = (offset, number)
                cells = line.split(between, at + 1)
                split = named[cells[at]] if at < len(cells) else ""
                if split not in found.counts:
                    return None
                place = found.counts[split]
                if held_below and place is train:
                    mark = zlib.crc32(str(here).encode() if by_number else line.rstrip(b"\r"))
                    found.lowest = min(found.lowest, mark)
                    place = val if mark < held_below else train
                place[-1] += 1
    return found if rows else None


class _Named(dict[bytes, str]):
    """Cell -> the split that it names."""

    def __missing__(self, cell: bytes) -> str:
        if len(self) > len(SPLITS) * 64:
            self.clear()
        self[cell] = split_named(cell)
        return self[cell]


def _plain(file: IO[bytes]) -> Iterator[list[bytes] | None]:
    """The lines without their ends, some at a time; None where a row need not be a line: something is quoted, or odd."""
    left = b""
    while piece := file.read(PIECE):
        *lines, left = (left + piece).split(b"\n")
        odd = b'"' in piece or b"\0" in piece
        if odd or (b"\r" in piece and any(b"\r" in line[:-1] for line in lines)):
            yield None
            return
        yield lines
    if left:
        yield [left] if b"\r" not in left[:-1] else None
