"""Pictures of more than 8 bits: their values as they are, in float32, fitted without losing any of them. numpy alone: boxes run it too."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from edgemm.contracts.stream import Pictures
from edgemm.errors import DataError

FLOAT = 32  # ``bits`` of pictures whose values are taken as they are, whatever their range


def fit(picture: Any, spec: Pictures) -> np.ndarray:
    """A picture (H, W) or (H, W, C), red first, as ``spec`` wants it: float32 (height, width, channels) in the picture's own values.

    Raises:
        DataError: Another shape or dtype, values that do not fit ``spec.bits``, or that are no numbers.
    """
    array = np.asarray(picture)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] != spec.channels or not array.size or array.dtype.kind not in "uif":
        raise DataError(
            f"a picture has dtype {array.dtype} and shape {np.shape(picture)}.",
            why=f"with bits: {spec.bits} a picture holds numbers, (height, width, {spec.channels}), or (height, width) for 1 channel.",
            fix="store it so, or mend channels in the card.",
        )
    _check(array, spec.bits)
    values = _fitted(array.astype(np.float32), spec)
    return values if spec.order == "rgb" else np.ascontiguousarray(values[..., [2, 1, 0, 3][: spec.channels]])


def _check(array: np.ndarray, bits: int) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        why = "a model turns one such value into nonsense."
        raise DataError("the picture holds NaN or infinity.", why=why, fix="fill the holes, such as by 0.")
    if bits == FLOAT:
        return
    is_broken = array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))
    if is_broken or array.dtype.itemsize == 1:
        what = "no whole numbers" if is_broken else "8 bits"
        fix = "set bits: 32 to take floats as they are." if is_broken else "set bits: 8, or store it in 16 bits."
        raise DataError(f"the picture's values are {what}, the card says bits: {bits}.", why="they count in other units.", fix=fix)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >> bits:
        why = f"that many bits hold 0 to {(1 << bits) - 1}."
        raise DataError(f"the picture's values are {low} to {high}, the card says bits: {bits}.", why=why, fix="raise bits (32 takes any).")


def _fitted(values: np.ndarray, spec: Pictures) -> np.ndarray:
    height, width = values.shape[:2]
    across, down = spec.width / width, spec.height / height
    if (height, width) == (spec.height, spec.width):
        return np.ascontiguousarray(values)
    if spec.fit == "stretch":
        return _resized(values, spec.height, spec.width)
    if spec.fit == "crop":
        kept_width, kept_height = spec.width / max(across, down), spec.height / max(across, down)
        left, top = max((width - kept_width) / 2, 0.0), max((height - kept_height) / 2, 0.0)
        return _resized(values, spec.height, spec.width, top, left, min(kept_height, height), min(kept_width, width))
    inner = max(1, round(height * min(across, down))), max(1, round(width * min(across, down)))
    canvas = np.empty(spec.shape, np.float32)
    canvas[:] = spec.swap(spec.bar)
    top, left = (spec.height - inner[0]) // 2, (spec.width - inner[1]) // 2
    canvas[top : top + inner[0], left : left + inner[1]] = _resized(values, *inner)
    return canvas


def _resized(
    values: np.ndarray, height: int, width: int, top: float = 0.0, left: float = 0.0, tall: float | None = None, wide: float | None = None
) -> np.ndarray:
    """Antialiased bilinear, as pillow's: a triangle that is widened by the factor of reduction."""
    rows = _weights(values.shape[0], height, top, values.shape[0] if tall is None else tall)
    columns = _weights(values.shape[1], width, left, values.shape[1] if wide is None else wide)
    scaled = np.einsum("hy,yxc,wx->hwc", rows, values, columns, optimize=True)
    return np.ascontiguousarray(scaled, np.float32)


@functools.lru_cache(maxsize=32)
def _weights(size: int, wanted: int, begin: float, length: float) -> np.ndarray:
    """float32 (wanted, size): what each old pixel gives to each new one."""
    scale = length / wanted
    reach = max(scale, 1.0)
    centres = begin + (np.arange(wanted) + 0.5) * scale
    far = np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / reach
    weights = np.maximum(1.0 - far, 0.0)
    whole: np.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return whole
