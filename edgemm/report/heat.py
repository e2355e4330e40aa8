"""Maps over what they are of: pictures, spectrograms, words and series, as HTML without a script."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np

from edgemm.contracts.explanation import Canvas

FOR, AGAINST = np.array([214, 64, 38]), np.array([43, 98, 217])
"""Colours of what speaks for the answer, and of what speaks against it."""
DEEPEST = 0.8  # of a colour over a picture: the picture is still seen
LEAST_SIDE = 192  # pixels of a picture's shorter side on the page; smaller ones are enlarged by whole numbers
STRIP, WIDE = 34, 300  # height of a channel, and the width of all, in a drawing's units
SERIES_DRAWN = 16  # lines in one strip


def drawn(canvas: Canvas, worth: np.ndarray | None, most: float, words: str) -> str:
    """One input with its map.

    Args:
        worth: The map, (rows, columns); None = the input alone.
        most: What counts as the deepest colour.
        words: What a screen reader says.
    """
    most = most if most > 0 else 1.0
    if canvas.kind == "words":
        return _words(canvas, worth, most)
    if canvas.kind == "series":
        return _series(canvas, worth, most, words)
    assert canvas.pixels is not None  # of pictures and sounds
    rows = None if worth is None else worth[::-1] if canvas.kind == "sound" else worth
    picture = f'<img src="{_uri(_painted(canvas.pixels, rows, most))}" alt="{escape(words, quote=True)}">'
    if canvas.kind == "picture":
        return picture
    top = f"{canvas.edges_hz[-1] / 1000:.3g} kHz" if canvas.edges_hz else ""
    return f'{picture}<div class="ends"><span>0 s, up to {top}</span><span>{canvas.seconds:.3g} s</span></div>'


def _painted(pixels: np.ndarray, worth: np.ndarray | None, most: float) -> np.ndarray:
    """uint8 (height, width, 3): the picture, in grey under a map."""
    times = max(1, -(-LEAST_SIDE // min(pixels.shape[:2])))
    large = np.repeat(np.repeat(pixels, times, 0), times, 1).astype(np.float64)
    large = np.repeat(large, 3, 2) if large.shape[2] == 1 else large[..., :3]
    if worth is None:
        return large.astype(np.uint8)
    grey = (large @ np.array([0.299, 0.587, 0.114]))[..., None]
    height, width = large.shape[:2]
    value = np.clip(_smooth(worth, height, width) / most, -1, 1)[..., None]
    deep = DEEPEST * np.abs(value)
    painted = grey * (1 - deep) + np.where(value >= 0, FOR, AGAINST) * deep
    rounded: np.ndarray = np.rint(painted).astype(np.uint8)
    return rounded


def _smooth(worth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Between the middles of its cells in a straight line."""
    rows, columns = worth.shape
    down = (np.arange(height) + 0.5) / height * rows - 0.5
    along = (np.arange(width) + 0.5) / width * columns - 0.5
    wide = np.stack([np.interp(along, np.arange(columns), row) for row in worth])
    return np.stack([np.interp(down, np.arange(rows), column) for column in wide.T], axis=1)


def _uri(pixels: np.ndarray) -> str:
    """A PNG as an address: 8 bits, red, green and blue."""
    height, width = pixels.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # each line begins with its filter
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return f"data:image/png;base64,{base64.b64encode(bytes([137, 80, 78, 71, 13, 10, 26, 10]) + body).decode()}"


def _words(canvas: Canvas, worth: np.ndarray | None, most: float) -> str:
    values = np.zeros(len(canvas.words)) if worth is None else worth[0]
    spans = "".join(
        f'<span style="background:{_shade(value / most)}" title="{value:+.3g}">{escape(word)}</span> '
        for word, value in zip(canvas.words, values, strict=True)
    )
    return f'<p class="words">{spans}</p>'


def _shade(value: float) -> str:
    colour = FOR if value >= 0 else AGAINST
    return f"rgba({','.join(map(str, colour.tolist()))},{DEEPEST * min(1.0, abs(value)):.3f})"


def _series(canvas: Canvas, worth: np.ndarray | None, most: float, words: str) -> str:
    """A strip a channel of the map, its lines over its colours."""
    assert canvas.series is not None  # of measurements
    strips = 1 if worth is None else len(worth)
    lines = canvas.series if strips == len(canvas.series) else canvas.series[:SERIES_DRAWN]
    shapes = []
    for strip in range(strips):
        for column, value in enumerate(() if worth is None else worth[strip]):
            step = WIDE / len(worth[strip])  # type: ignore[index]  # there is one
            place = f'x="{column * step:.1f}" y="{strip * STRIP}" width="{step + 0.5:.1f}" height="{STRIP - 2}"'
            shapes.append(f'<rect {place} fill="{_shade(value / most)}"/>')
        own = lines[strip : strip + 1] if strips == len(lines) else lines
        shapes += [f'<polyline points="{_points(line, strip)}"/>' for line in own]
    size = f'viewBox="0 0 {WIDE} {strips * STRIP}"'
    return f'<svg class="strips" {size} role="img" aria-label="{escape(words, quote=True)}">{"".join(shapes)}</svg>'


def _points(line: np.ndarray, strip: int) -> str:
    low, high = float(line.min()), float(line.max())
    heights = (line - low) / (high - low) if high > low else np.full(len(line), 0.5)
    steps = max(len(line) - 1, 1)
    return " ".join(
        f"{WIDE * number / steps:.1f},{(strip + 1) * STRIP - 4 - (STRIP - 8) * height:.1f}" for number, height in enumerate(heights)
    )
