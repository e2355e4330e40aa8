"""The fixed operations a front-end is made of. Each runs in numpy here, in torch and as ONNX nodes elsewhere, with the same result.

Every op works on a whole batch: axis 0 is the batch, all shapes below leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cast:
    """Any -> float32 (or ``dtype``)."""

    dtype: str = "float32"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.dtype)


@dataclass(frozen=True)
class Transpose:
    """Reorder the axes after the batch: ``axes`` counts from 1, so (3, 1, 2) turns (H, W, C) into (C, H, W)."""

    axes: tuple[int, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x.transpose(0, *self.axes)


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift``; both broadcast over the axes after the batch."""

    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        moved: np.ndarray = x * self.scale + self.shift
        return moved


@dataclass(frozen=True)
class Peak:
    """(samples,) -> the same, divided by its largest value (at least ``floor``)."""

    floor: float = 1e-6

    def __call__(self, x: np.ndarray) -> np.ndarray:
        share: np.ndarray = x / np.maximum(x.max(axis=1, keepdims=True), np.float32(self.floor))
        return share


@dataclass(frozen=True)
class Reflect:
    """(samples,) -> (samples + 2 * width,): the signal mirrored at both ends, the end values not repeated."""

    width: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (self.width, self.width)), mode="reflect")


@dataclass(frozen=True)
class Frames:
    """(samples,) -> (filters, frames): a strided 1-D convolution with fixed ``weight`` (filters, 1, window), no padding."""

    weight: np.ndarray
    hop: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        window = self.weight.shape[-1]
        frames = np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)[:, :: self.hop]
        filtered: np.ndarray = np.einsum("ntw,fw->nft", frames, self.weight[:, 0], optimize=True).astype(np.float32)
        return filtered


@dataclass(frozen=True)
class Power:
    """(2 * bins, frames), real parts first, then imaginary -> (bins, frames): ``(re^2 + im^2) ** (exponent / 2)``."""

    exponent: float = 2.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        real, imaginary = np.split(x, 2, axis=1)
        power: np.ndarray = real * real + imaginary * imaginary
        return power if self.exponent == 2.0 else np.sqrt(power) if self.exponent == 1.0 else power ** (self.exponent / 2)


@dataclass(frozen=True)
class MatMul:
    """(in, frames) -> (out, frames): ``weight @ x`` with ``weight`` (out, in)."""

    weight: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        product: np.ndarray = np.matmul(self.weight, x)
        return product


@dataclass(frozen=True)
class Log:
    """Natural logarithm of ``max(x + offset, floor)``."""

    floor: float
    offset: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(x + np.float32(self.offset), np.float32(self.floor)))


@dataclass(frozen=True)
class Normalize:
    """Zero mean, unit deviation over all axes after the batch, per sample."""

    floor: float = 1e-5

    def __call__(self, x: np.ndarray) -> np.ndarray:
        axes = tuple(range(1, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        scaled: np.ndarray = centred / (np.sqrt((centred * centred).mean(axis=axes, keepdims=True)) + np.float32(self.floor))
        return scaled


@dataclass(frozen=True)
class Mask:
    """Token ids -> the same ids, and after them an int64 mask that is 1 where the id is not ``pad``. Always the last op."""

    pad: int = 0

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, (x != self.pad).astype(np.int64)


Op = Cast | Transpose | Affine | Peak | Reflect | Frames | Power | MatMul | Log | Normalize | Mask


def folds(ops: list[Op]) -> bool:
    """Whether a ``steps`` axis must be folded into the batch while ``ops`` run: not where all work on each value alone."""
    return any(not isinstance(op, (Cast, Mask)) for op in ops)


def run(ops: list[Op], x: np.ndarray, *, steps: int | None = None) -> tuple[np.ndarray, ...]:
    """Run a whole front-end in numpy on (batch[, steps], *sample); a tuple of what ``forward`` receives, one or two arrays."""
    fold = steps if folds(ops) else None
    out: np.ndarray | tuple[np.ndarray, ...] = x.reshape(-1, *x.shape[2:]) if fold else x
    for op in ops:
        out = op(out)  # type: ignore[arg-type]  # only Mask, the last one, yields two
    features = out if isinstance(out, tuple) else (out,)
    return tuple(value.reshape(-1, fold, *value.shape[1:]) if fold else value for value in features)
