"""Pictures to arrays with pillow: the one place that decodes, converts and resizes them."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from edgemm.contracts.stream import Pictures
from edgemm.data.modalities._image import deep
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
RAW_PROFILE = b"Raw profile type exif"
ON_THEIR_SIDE = (5, 6, 7, 8)
"""Turns that exchange height and width."""
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
    """Decode a file (or its bytes) to (height, width, channels) as ``spec`` wants it: uint8, or float32 where that has more bits.

    Raises:
        DataError: pillow cannot read it, or its values do not fit ``spec.bits``.
    """
    try:
        with _opened(source) as picture:
            return _finish(_turned(picture), spec) if spec.bits == 8 else deep.fit(_values(picture, source, spec), spec)
    except BROKEN as err:
        raise _unreadable(source, err) from err


def whole(source: Path) -> np.ndarray:
    """A file's picture, upright: uint8 (height, width, 3), red first.

    Raises:
        DataError: pillow cannot read it.
    """
    try:
        with _opened(source) as picture:
            return np.array(_convert(_turned(picture), MODES[3]), np.uint8)
    except BROKEN as err:
        raise _unreadable(source, err) from err


def extent(source: Path | bytes) -> tuple[int, int]:
    """Height and width of a file's picture, upright; its pixels are not decoded.

    Raises:
        DataError: pillow cannot read it.
    """
    try:
        with _opened(source) as picture:
            width, height = picture.size
            has_exif = picture.format != "PNG" or _has_exif(source)  # for PNG pillow looks behind the pixels, and decodes them
            return (width, height) if has_exif and picture.getexif().get(ORIENTATION, 1) in ON_THEIR_SIDE else (height, width)
    except BROKEN as err:
        raise _unreadable(source, err) from err


def depth(path: Path) -> int:
    """Bits of a value in a picture's file; 0 where it cannot be read."""
    try:
        with _opened(path) as picture:
            return _depth(picture, path)
    except BROKEN:
        return 0


def _has_exif(source: Path | bytes) -> bool:
    """Whether a PNG has a chunk of EXIF, or the text that older tools keep it in (PNG specification, 11.3)."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            begins = file.read(min(length, len(RAW_PROFILE))) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if kind == b"eXIf" or begins == RAW_PROFILE:
                return True
            file.seek(length + 4 - len(begins), io.SEEK_CUR)
    return False


def _unreadable(source: Path | bytes, err: Exception) -> DataError:
    name = f"'{source}'" if isinstance(source, Path) else "the picture"
    return DataError(
        f"{name} cannot be read as a picture.",
        why=f"{err or type(err).__name__}".rstrip(".") + ".",
        fix="replace the file; PNG, JPEG, WebP and whatever else pillow reads will do.",
    )


def _opened(source: Path | bytes) -> Any:
    return Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _turned(picture: Any) -> Any:
    """Decoded, and upright."""
    picture.load()
    turn = TURNS.get(picture.getexif().get(ORIENTATION, 1))
    return picture if turn is None else picture.transpose(turn)


def _depth(picture: Any, source: Path | bytes) -> int:
    """Bits of a value in the file, before it is decoded: pillow hands out 16-bit colours in 8."""
    _, raw, most = _layout(picture)
    if picture.format == "PNG":
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            bits: int = max([8, *file.read(25)[24:]])  # the bit depth's place in IHDR, which comes first (PNG specification, 11.2.2)
            return bits
    if picture.mode in ("F", "I") and picture.format != "PPM":
        return 32
    return 16 if ";16" in raw or picture.mode.startswith("I;16") else max(8, most.bit_length())


def _layout(picture: Any) -> tuple[str, str, int]:
    """A file's decoder, how values lie in it, and for PPM the greatest they may be (0: not said)."""
    codec, args = (picture.tile[0].codec_name, picture.tile[0].args) if picture.tile else ("", "")
    raw, most = (args, 0) if isinstance(args, str) else (args[0], args[1] if codec.startswith("ppm") else 0)
    return codec, str(raw), most


def _values(picture: Any, source: Path | bytes, spec: Pictures) -> np.ndarray:
    bits, (codec, raw, most) = _depth(picture, source), _layout(picture)
    if codec.startswith("ppm") and most > 255:  # pillow stretches them to 16 bits, or squeezes them into 8
        if codec != "ppm":
            raise _refused("the picture's values are text, of which pillow changes those of more than 8 bits")
        picture.fp.seek(picture.tile[0].offset)
        shape = (*picture.size[::-1], len(raw))  # as many channels as letters: L, RGB
        return np.frombuffer(picture.fp.read(2 * int(np.prod(shape))), ">u2").reshape(shape)
    if layout := re.fullmatch("(RGBA?|LA);16([BLN])", raw):
        return _over_black(_sixteen_bits(source, *layout.groups()), spec.channels)
    picture = _turned(picture)
    if bits == 16 and not picture.mode.startswith("I"):
        raise _refused("the picture has 16 bits a colour in a form of which pillow reads 8")
    if bits == 8 and picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert(MODES[spec.channels])
    return np.asarray(picture)


def _refused(what: str) -> DataError:
    return DataError(f"{what}.", why="bits in the card asks for every value as it is.", fix="store it as PNG or .npy.")


def _sixteen_bits(source: Path | bytes, kind: str, order: str) -> np.ndarray:
    """A colour picture's values (H, W, C): one byte of each as if the file were big-endian, the other as if it were not."""
    planes = []
    for raw in ("RGBA",) if kind == "LA" else (f"{kind};16B", f"{kind};16L"):
        with _opened(source) as picture:
            picture.tile = [tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in picture.tile]
            planes.append(np.asarray(_turned(picture)).astype(np.uint16))
    first, second = planes if len(planes) > 1 else (planes[0][..., ::2], planes[0][..., 1::2])
    is_little = order == "L" or (order == "N" and sys.byteorder == "little")
    return second * 256 + first if is_little else first * 256 + second


def _over_black(values: np.ndarray, channels: int) -> np.ndarray:
    """Colours that the card wants without their opacity, laid over black as those of 8 bits are."""
    if values.shape[-1] not in (2, channels + 1):
        return values
    return np.rint(values[..., :-1] * (values[..., -1:] / 65535)).astype(np.uint16)


def jpeg(array: np.ndarray, width: int) -> bytes:
    """uint8 (height, width, 3), at most ``width`` pixels wide."""
    picture, stored = Pillow.fromarray(array), io.BytesIO()
    if picture.width > width:
        picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Pillow.Resampling.BILINEAR)
    picture.save(stored, "JPEG", quality=80)
    return stored.getvalue()


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
    if array.shape == spec.shape and spec.short is None:
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
    if picture.mode == "I" and picture.format not in (None, "PNG", "PPM"):
        raise _of_unknown_range("32-bit integers")
    if picture.mode.startswith("I"):  # pillow would clip 16-bit greys at 255 instead of scaling them
        deep = np.asarray(picture).astype(np.int64)
        picture = Pillow.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    elif picture.mode == "F":
        raise _of_unknown_range("floats")
    if picture.mode == mode:
        return picture
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if mode != "RGBA":
            picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert(mode)


def _of_unknown_range(kind: str) -> DataError:
    why = "with bits: 8 they would have to be made 0 to 255, and nothing tells which of them is black and which white."
    return DataError(
        f"the picture's values are {kind} of unknown range.", why=why, fix="set bits: 32 and scale in the card: they are taken as they are."
    )


def _resize(picture: Pillow.Image, spec: Pictures) -> Pillow.Image:
    """Antialiased: pillow widens the filter by the factor of reduction."""
    size, (width, height) = (spec.width, spec.height), picture.size
    how = Pillow.Resampling[spec.resample.upper()]
    if spec.short is not None:
        return _centre(_of_size(picture, spec.before_crop(width, height), how), size)
    if picture.size == size:
        return picture
    if spec.fit == "stretch":
        return picture.resize(size, how)
    across, down = spec.width / width, spec.height / height
    if spec.fit == "crop":
        kept_width, kept_height = spec.width / max(across, down), spec.height / max(across, down)
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        box = (max(left, 0.0), max(top, 0.0), min(left + kept_width, float(width)), min(top + kept_height, float(height)))
        return picture.resize(size, how, box=box)
    inner = (max(1, round(width * min(across, down))), max(1, round(height * min(across, down))))
    bar = tuple(int(value) for value in spec.bar)
    out = Pillow.new(picture.mode, size, bar if len(bar) > 1 else bar[0])
    out.paste(picture.resize(inner, how), ((spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2))
    return out


def _of_size(picture: Pillow.Image, size: tuple[int, int], how: Pillow.Resampling) -> Pillow.Image:
    return picture if picture.size == size else picture.resize(size, how)


def _centre(picture: Pillow.Image, size: tuple[int, int]) -> Pillow.Image:
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))
