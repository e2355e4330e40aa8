"""COCO's run lengths: how many pixels are not of a thing, how many are, and so on, down the columns from the left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

BITS, MORE, SIGN = 5, 0x20, 0x10  # of a character: value, another one follows, the value is below 0
FIRST = 48  # character of 0


def read(segmentation: Any) -> tuple[tuple[int, ...], tuple[int, int]] | None:
    """Runs, and the picture's height and width, of ``{counts, size}``, plain or packed into text; None where it is none of that."""
    if not isinstance(segmentation, dict) or not isinstance(size := segmentation.get("size"), (list, tuple)) or len(size) != 2:
        return None
    counts = segmentation.get("counts")
    if not all(isinstance(side, int) and side > 0 for side in size):
        return None
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, (list, tuple)) or not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != size[0] * size[1]:
        return None
    return tuple(runs), (size[0], size[1])


def extent(runs: Sequence[int], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The smallest box around what they cover; None where that is nothing."""
    height, _ = size
    ends = list(accumulate(runs))
    covered = [(begin, end) for begin, end in zip(ends[::2], ends[1::2], strict=False) if end > begin]
    if not covered:
        return None
    tall = any(begin // height != (end - 1) // height for begin, end in covered)  # a run around a column's end is at the top and the bottom
    rows = [(0, height)] if tall else [(begin % height, (end - 1) % height + 1) for begin, end in covered]
    columns = [(begin // height, (end - 1) // height + 1) for begin, end in covered]
    return float(columns[0][0]), float(min(rows)[0]), float(columns[-1][1]), float(max(end for _, end in rows))


def _unpacked(text: str) -> list[int] | None:
    """Source: rleFrString of the COCO API: five bits a character, the lowest first; from the third run on what it is more than that before
    the last.
    """
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, has_more = 0, 0, True
        while has_more:
            if place >= len(text):
                return None
            code = ord(text[place]) - FIRST
            if not 0 <= code < 2 * MORE:
                return None
            value |= (code & (MORE - 1)) << shift
            shift, place, has_more = shift + BITS, place + 1, bool(code & MORE)
            if not has_more and code & SIGN:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
