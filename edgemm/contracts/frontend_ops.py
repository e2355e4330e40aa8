"""The fixed operations a front-end is made of. Each runs in numpy here, in torch and as ONNX nodes elsewhere, with the same result.

Every op works on a whole batch: axis 0 is the batch, all shapes below leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.errors import CardError

COST_ROW = "frontend:"
"""Before an input's name: what its front-end costs, in tables of costs."""


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


def standardizing(mean: np.ndarray, std: np.ndarray, factor: float = 1.0) -> Affine:
    """``(x * factor - mean) / std``.

    Raises:
        CardError: A float32 cannot hold what comes of them; does not name the input.
    """
    with np.errstate(over="ignore"):
        affine = Affine((factor / std).astype(np.float32), (-mean / std).astype(np.float32))
    if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        raise CardError(
            f"mean is {mean.ravel().tolist()}, std is {std.ravel().tolist()}.",
            why="forward gets (x - mean) / std, and no float32 holds 1 / std or mean / std.",
            fix="write finite numbers, those of std further from 0.",
        )
    return affine


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
class Blocks:
    """(samples,) -> (frames, rows, columns): overlapping frames times ``window`` (rows, columns), each laid out row by row.

    The last frame reads ``overrun`` samples beyond the end, which are 0.
    """

    window: np.ndarray
    hop: int
    frames: int
    overrun: int = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, self.overrun)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window.size, axis=-1)[:, :: self.hop][:, : self.frames]
        blocks: np.ndarray = frames.reshape(*frames.shape[:2], *self.window.shape) * self.window
        return blocks


@dataclass(frozen=True)
class Spectrum:
    """(frames, in, columns) -> (frames, rows * bins): each frame's Fourier transform in two stages, its ``|.| ** exponent``.

    Attributes:
        down_real, down_imaginary: (rows, in), the transform of each column.
        turn_cosines, turn_sines: (rows, columns): between the stages each value is multiplied by cosine - i sine.
        along_cosines, along_sines: (columns, bins), of cosine - i sine: the transform of each row.
    """

    down_real: np.ndarray
    down_imaginary: np.ndarray
    turn_cosines: np.ndarray
    turn_sines: np.ndarray
    along_cosines: np.ndarray
    along_sines: np.ndarray
    exponent: float = 2.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        real, imaginary = np.matmul(self.down_real, x), np.matmul(self.down_imaginary, x)
        cosines, sines = self.turn_cosines, self.turn_sines
        real, imaginary = real * cosines + imaginary * sines, imaginary * cosines - real * sines
        cosines, sines = self.along_cosines, self.along_sines
        real, imaginary = real @ cosines + imaginary @ sines, imaginary @ cosines - real @ sines
        power = Power(self.exponent)(np.concatenate([real, imaginary], axis=1))
        return power.reshape(*power.shape[:2], -1)


@dataclass(frozen=True)
class Bands:
    """(frames, in) -> (out, frames), with ``weight`` (in, out)."""

    weight: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        product: np.ndarray = np.matmul(x, self.weight)
        return product.transpose(0, 2, 1)


@dataclass(frozen=True)
class MatMul:
    """(..., in, columns) -> (..., out, columns): ``weight @ x`` with ``weight`` (out, in)."""

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
    """Zero mean, unit deviation over all axes after the batch, per sample; ``added`` to the variance, ``floor`` to the deviation."""

    floor: float = 1e-5
    added: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        axes = tuple(range(1, x.ndim))
        centred = x - x.mean(axis=axes, keepdims=True)
        variance = (centred * centred).mean(axis=axes, keepdims=True)
        deviation = np.sqrt(variance + np.float32(self.added) if self.added else variance)
        scaled: np.ndarray = centred / (deviation + np.float32(self.floor) if self.floor else deviation)
        return scaled


@dataclass(frozen=True)
class Within:
    """What is more than ``distance`` below a sample's largest value, over all axes after the batch, is raised to that."""

    distance: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        raised: np.ndarray = np.maximum(x, x.max(axis=tuple(range(1, x.ndim)), keepdims=True) - np.float32(self.distance))
        return raised


@dataclass(frozen=True)
class Extend:
    """(bands, frames) -> (bands, frames + more), zeros behind; with ``more`` below 0 the last frames are cut off."""

    more: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x[..., : self.more] if self.more < 0 else np.pad(x, ((0, 0), (0, 0), (0, self.more)))


@dataclass(frozen=True)
class Mask:
    """Token ids -> the same ids, and after them an int64 mask that is 1 where the id is not ``pad``. Always the last op."""

    pad: int = 0

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, (x != self.pad).astype(np.int64)


Op = (
    Cast | Transpose | Affine | Peak | Reflect | Frames | Power | Blocks | Spectrum | Bands | MatMul | Log | Normalize
    | Within | Extend | Mask
)  # fmt: skip


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
