"""Pictures to arrays with pillow: the one place that decodes, converts and resizes them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from edgemm.contracts.stream import Pictures
from edgemm.errors import DataError

ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Pillow.DecompressionBombError,
)
"""What pillow's readers raise on damaged files."""


def read(source: Path | bytes, spec: Pictures) -> np.ndarray:
    """Decode a file (or its bytes) to uint8 (height, width, channels) as ``spec`` wants it.

    Raises:
        DataError: pillow cannot read it.
    """
    name = f"'{source}'" if isinstance(source, Path) else "the picture"
    try:
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            picture.load()
            turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
            return _finish(picture if turn is None else picture.transpose(turn), spec)
    except BROKEN as err:
        raise DataError(
            f"{name} cannot be read as a picture.",
            why=f"{err or type(err).__name__}".rstrip(".") + ".",
            fix="replace the file; PNG, JPEG, WebP and whatever else pillow reads will do.",
        ) from err


def prepare(array: Any, spec: Pictures) -> np.ndarray:
    """The same for a picture that is an array already.

    Raises:
        DataError: It is not uint8 (H, W) or (H, W, 1 | 3 | 4).
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in MODES) or not array.size:
        raise DataError(
            f"a picture array has dtype {array.dtype} and shape {array.shape}.",
            why="a picture is uint8, (height, width) or (height, width, 1, 3 or 4), values 0 to 255.",
            fix="convert it: (picture * 255).round().astype('uint8') for values in 0-1, picture.transpose(1, 2, 0) for channels first.",
        )
    if array.shape == spec.shape:
        return _ordered(array, spec)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _finish(Pillow.fromarray(np.ascontiguousarray(array)), spec)


def _finish(picture: Pillow.Image, spec: Pictures) -> np.ndarray:
    picture = _resize(_convert(picture, MODES[spec.channels]), spec)
    return _ordered(np.array(picture, np.uint8).reshape(spec.height, spec.width, spec.channels), spec)


def _ordered(array: np.ndarray, spec: Pictures) -> np.ndarray:
    if spec.order == "rgb":
        return array
    return np.ascontiguousarray(array[..., [2, 1, 0, 3][: spec.channels]])


def _convert(picture: Pillow.Image, mode: str) -> Pillow.Image:
    """To 8 bits a channel and ``mode``: deep greys keep their upper 8 bits, transparency is laid over black."""
    if picture.mode.startswith("I"):  # pillow would clip 16-bit greys at 255 instead of scaling them
        deep = np.asarray(picture).astype(np.int64)
        picture = Pillow.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("its values are floats of unknown range")
    if picture.mode == mode:
        return picture
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if mode != "RGBA":
            picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert(mode)


def _resize(picture: Pillow.Image, spec: Pictures) -> Pillow.Image:
    """Antialiased bilinear: pillow widens the triangle filter by the factor of reduction."""
    size, (width, height) = (spec.width, spec.height), picture.size
    if picture.size == size:
        return picture
    if spec.fit == "stretch":
        return picture.resize(size, Pillow.Resampling.BILINEAR)
    across, down = spec.width / width, spec.height / height
    if spec.fit == "crop":
        kept_width, kept_height = spec.width / max(across, down), spec.height / max(across, down)
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        box = (max(left, 0.0), max(top, 0.0), min(left + kept_width, float(width)), min(top + kept_height, float(height)))
        return picture.resize(size, Pillow.Resampling.BILINEAR, box=box)
    inner = (max(1, round(width * min(across, down))), max(1, round(height * min(across, down))))
    bar = spec.bar
    out = Pillow.new(picture.mode, size, bar if len(bar) > 1 else bar[0])
    out.paste(picture.resize(inner, Pillow.Resampling.BILINEAR), ((spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2))
    return out
