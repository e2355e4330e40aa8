"""Masks as files: pictures of one channel whose values are label numbers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from edgemm.errors import DataError

ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
LOSSY = ("JPEG", "MPO", "JPEG2000")


def read(source: Path | bytes) -> np.ndarray:
    """The values of a mask's file, (height, width), of a palette's picture the numbers of its colours.

    Raises:
        DataError: pillow cannot read it, it has several channels, or was stored with loss.
    """
    name = f"'{source}'" if isinstance(source, Path) else "the mask"
    try:
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture.load()
            mode, kind, values = picture.mode, picture.format, np.asarray(picture)
    except Exception as err:  # pillow's readers raise errors without a common base on damaged files
        why = f"{err or type(err).__name__}".rstrip(".") + "."
        raise DataError(f"{name} cannot be read as a mask.", why=why, fix="replace the file by a PNG of one channel.") from err
    if mode not in ONE_CHANNEL:
        raise DataError(
            f"{name} is a picture of mode {mode}, and a mask has one channel.",
            why="the value of a pixel is the number of its label; colours are no numbers.",
            fix="store it as a PNG of one channel (mode L, or P with a palette for people).",
        )
    if kind in LOSSY:
        raise DataError(f"{name} is a {kind}.", why="that changes values at the edges of shapes.", fix="store masks as PNG.")
    return values.astype(np.uint8) if mode == "1" else values
