"""A sample with one piece after another taken away, so that a model says what it made of each (Zeiler & Fergus, 2014).

What is taken away is replaced by what says nothing: a place of a picture by the picture's mean colour, a stretch of a band of sound by the
clip's own background, a stretch of a measured channel by the card's mean of it, a word by nothing: the text closes up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.explanation import Canvas
from edgemm.contracts.frontend_ops import Affine
from edgemm.contracts.modality import Modality
from edgemm.contracts.stream import Pictures, Sound, Texts
from edgemm.data.occlusion.spectrum import Spectrum

CELLS = 16
"""Of a side of a picture, and of the time of a series: a piece is two cells, an eighth of the side, and moves by one."""
BANDS, STRETCHES = 10, 20
"""Cells of a spectrogram, alike wide in mel and in time; a piece is two by two."""
MOST_WORDS = 64
"""Of a longer text runs of words are taken away."""
MOST_CHANNELS = 16
"""Of more channels all are taken away together."""

Block = tuple[int, int, int, int]
"""Cells: first row, end row, first column, end column."""


@dataclass(frozen=True)
class Pieces:
    """One input of one row, and its pieces.

    Attributes:
        canvas: The input as people look at it.
        rows, columns: Cells of the map; row 0 is a picture's top, a spectrogram's lowest band, the first channel.
        blocks: Which cells each piece is.
        without: The sample, with its batch axis, without a piece.
        ends: Of a text where among its ids each run of words begins, and where the last ends.
    """

    canvas: Canvas
    rows: int
    columns: int
    blocks: Sequence[Block]
    without: Callable[[Block], np.ndarray]
    ends: Sequence[int] = ()

    def blank(self) -> np.ndarray:
        """The sample without all of it, with its batch axis."""
        return self.without((0, self.rows, 0, self.columns))

    def cells_of(self, values: np.ndarray) -> np.ndarray:
        """Values on finer places of the same input summed up on its cells; fewer cells where there are fewer values.

        Args:
            values: (height, width) of a picture, (bands, frames) of sound, low ones first, (moments, channels) of a series, (1, tokens).
        """
        if self.canvas.kind == "words":
            values = np.stack([values[:, begin:end].sum(1) for begin, end in pairwise(self.ends)], axis=1)
        elif self.canvas.kind == "series" and len(values) > 1:
            values = values.T
        for axis, count in enumerate((self.rows, self.columns)):
            edges = _edges(values.shape[axis], min(count, values.shape[axis]))
            values = np.add.reduceat(values, edges[:-1], axis=axis)
        return values

    def map(self, drops: np.ndarray) -> np.ndarray:
        """What each cell is worth: the mean of what was lost with the pieces that cover it, (rows, columns).

        Args:
            drops: (pieces,).
        """
        total, count = np.zeros((self.rows, self.columns)), np.zeros((self.rows, self.columns))
        for (top, bottom, left, right), drop in zip(self.blocks, drops, strict=True):
            total[top:bottom, left:right] += drop
            count[top:bottom, left:right] += 1
        worth: np.ndarray = total / np.maximum(count, 1)
        return worth


def pieces(modality: Modality, sample: np.ndarray, cell: Any, folder: Path) -> Pieces | None:
    """The pieces of one sample; None where it has none: ids without a text, a state, a single number.

    Args:
        sample: As the graph takes it, with its batch axis. An axis of steps is passed over: a piece is the same place in every step.
        cell: What the dataset holds.
        folder: What a path in ``cell`` is relative to.
    """
    stream = modality.stream()
    if isinstance(stream, Texts):
        return _words(modality, cell, folder)
    if isinstance(stream, Pictures):
        return _places(stream, sample)
    if isinstance(stream, Sound):
        return _stretches(stream, sample)
    has_pieces = sample.dtype.kind == "f" and modality.initial() is None and max(sample.shape, default=1) > 1
    return _moments(modality, sample) if has_pieces else None


def _places(stream: Pictures, sample: np.ndarray) -> Pieces:
    height, width = min(CELLS, stream.height), min(CELLS, stream.width)
    edges = _edges(stream.height, height), _edges(stream.width, width)
    colour = sample.mean(axis=(-3, -2), keepdims=True)
    colour = np.rint(colour).astype(sample.dtype) if sample.dtype.kind in "iu" else colour.astype(sample.dtype)

    def without(block: Block) -> np.ndarray:
        top, bottom, left, right = (int(edges[index // 2][place]) for index, place in enumerate(block))
        covered = sample.copy()
        covered[..., top:bottom, left:right, :] = colour
        return covered

    picture = sample.reshape(-1, *sample.shape[-3:])[-1].astype(np.float64)
    deepest = 255.0 if sample.dtype == np.uint8 else max(float(picture.max()), 1e-12)
    shown = np.clip(np.rint(picture * (255.0 / deepest)), 0, 255).astype(np.uint8)[..., :3]
    shown = shown[..., :1] if shown.shape[-1] == 2 else shown[..., ::-1] if stream.order == "bgr" else shown
    return Pieces(Canvas("picture", pixels=shown), height, width, _blocks(height, width, 2, 2), without)


def _stretches(stream: Sound, sample: np.ndarray) -> Pieces:
    """Of several steps the same stretch of each; the last is shown."""
    clips = [Spectrum(clip, stream.rate_hz) for clip in sample.reshape(-1, sample.shape[-1]).astype(np.float64)]
    columns = min(STRETCHES, clips[-1].frames)
    edges = clips[-1].bands(BANDS), _edges(clips[-1].frames, columns)

    def without(block: Block) -> np.ndarray:
        low, high, begin, end = (edges[index // 2][place] for index, place in enumerate(block))
        quiet = [clip.without(float(low), float(high), int(begin), int(end)) for clip in clips]
        return np.stack(quiet).reshape(sample.shape).astype(sample.dtype)

    canvas = Canvas("sound", pixels=clips[-1].picture(), seconds=stream.samples / stream.rate_hz, edges_hz=tuple(edges[0].tolist()))
    return Pieces(canvas, BANDS, columns, _blocks(BANDS, columns, 2, 2), without)


def _words(modality: Modality, cell: Any, folder: Path) -> Pieces | None:
    if not isinstance(cell, str) or not cell.split():
        return None
    words = cell.split()
    edges = _edges(len(words), min(MOST_WORDS, len(words)))
    runs = [words[begin:end] for begin, end in pairwise(edges)]

    def without(block: Block) -> np.ndarray:
        kept = [word for place, run in enumerate(runs) if not block[2] <= place < block[3] for word in run]
        return modality.decode(" ".join(kept), folder)[None]

    canvas = Canvas("words", words=tuple(" ".join(run) for run in runs))
    starts = [modality.decode(" ".join(words[: edges[number]]), folder) for number in range(len(edges))]
    ends = [_alike(ids, starts[-1]) for ids in starts]
    return Pieces(canvas, 1, len(runs), _blocks(1, len(runs), 1, 1), without, np.maximum.accumulate(ends).tolist())


def _alike(ids: np.ndarray, others: np.ndarray) -> int:
    """How many first ids are the same."""
    differ = np.flatnonzero(ids != others)
    return int(differ[0]) if len(differ) else len(ids)


def _moments(modality: Modality, sample: np.ndarray) -> Pieces:
    """Of (moments, channels) stretches of each channel; of maps (..., height, width) places; of a single row its values."""
    series = sample.reshape(-1, sample.shape[-2] if sample.ndim > 2 else 1, sample.shape[-1])
    is_map = sample.ndim > 3  # batch, planes, height, width
    across, along = (1, 2) if is_map or sample.ndim < 3 else (2, 1)
    size = series.shape[across], series.shape[along]
    rows = min(size[0], CELLS if is_map else MOST_CHANNELS) if is_map or size[0] <= MOST_CHANNELS else 1
    columns = min(CELLS, size[1])
    edges = _edges(size[0], rows), _edges(size[1], columns)
    neutral = _neutral(modality, sample, along=-1 if across == 1 else -2)

    def without(block: Block) -> np.ndarray:
        spans = [slice(int(edges[index][block[2 * index]]), int(edges[index][block[2 * index + 1]])) for index in (0, 1)]
        covered = series.copy()
        place = (slice(None), spans[0], spans[1]) if across == 1 else (slice(None), spans[1], spans[0])
        covered[place] = np.broadcast_to(neutral, sample.shape).reshape(series.shape)[place]
        return covered.reshape(sample.shape)

    lines = np.asarray(series[-1] if across == 1 else series[-1].T, np.float64)
    tall, wide = (2 if is_map and rows > 1 else 1), (2 if size[1] > CELLS else 1)
    canvas = Canvas("picture", pixels=_greys(lines)) if is_map else Canvas("series", series=lines)
    return Pieces(canvas, rows, columns, _blocks(rows, columns, tall, wide), without)


def _greys(values: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 1), the least black."""
    low, high = float(values.min()), float(values.max())
    greys: np.ndarray = np.rint(255 * (values - low) / ((high - low) or 1.0)).astype(np.uint8)[..., None]
    return greys


def _neutral(modality: Modality, sample: np.ndarray, *, along: int) -> np.ndarray:
    """What ``forward`` receives as zero, where the card has means; else the mean over the series."""
    first = next((op for op in modality.frontend() if isinstance(op, Affine)), None)
    if first is not None:
        return np.asarray(-first.shift / first.scale, sample.dtype)
    return np.asarray(sample.mean(axis=along, keepdims=True), sample.dtype)


def _edges(size: int, cells: int) -> np.ndarray:
    """Where each of ``cells`` begins, and the last ends."""
    return np.rint(np.linspace(0, size, cells + 1)).astype(np.int64)


def _blocks(rows: int, columns: int, tall: int, wide: int) -> list[Block]:
    """Every place of a window of ``tall`` x ``wide`` cells."""
    tall, wide = min(tall, rows), min(wide, columns)
    return [(top, top + tall, left, left + wide) for top in range(rows - tall + 1) for left in range(columns - wide + 1)]
