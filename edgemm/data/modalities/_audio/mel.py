"""Log-mel and MFCC as fixed operations: framed Fourier transform by convolution, mel bands and cosine transform by matmul."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from edgemm.contracts import options
from edgemm.contracts.frontend_ops import Frames, Log, MatMul, Normalize, Op, Peak, Power, Reflect
from edgemm.contracts.plugins import Option
from edgemm.errors import CardError, Mistakes


@dataclass(frozen=True)
class Mel:
    """Keys under ``features: {log_mel: ...}``; ``frames = 1 + (samples - window) // hop``.

    Attributes:
        mels: Number of bands.
        window_ms, hop_ms: Length of a frame and distance between two, in milliseconds.
        fft: Length of the Fourier transform in samples; None = the next power of two from the window's length.
        fmin_hz, fmax_hz: Lower edge of the first and upper edge of the last band; None = half the rate.
        mel_scale: ``htk`` (2595 log10(1 + f/700)) or ``slaney`` (linear to 1 kHz, then logarithmic).
        mel_norm: ``slaney`` divides each band by its width in Hz.
        mel_slope: Whether the triangles have straight sides over ``hz`` (librosa, torchaudio) or over ``mel`` (HTK, TensorFlow).
        power: 2 = power spectrum, 1 = magnitude.
        center: Mirror half a window at both ends, so that frame t is centred at t * hop.
        floor, offset: Natural logarithm of ``max(x + offset, floor)``.
        normalize: ``clip`` gives each clip's features zero mean and unit deviation; ``peak`` divides its samples by the largest one.
        coefs: MFCC only: how many coefficients are kept (13 where it is not given), the first being the loudness.
        dct: MFCC only: ``ortho`` (orthonormal) or ``htk`` (the same, but the first coefficient times sqrt(2)).
    """

    mels: int = 40
    window_ms: float = 25.0
    hop_ms: float = 10.0
    fft: int | None = None
    fmin_hz: float = 0.0
    fmax_hz: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"
    mel_norm: Literal["none", "slaney"] = "none"
    mel_slope: Literal["hz", "mel"] = "hz"
    power: float = 2.0
    center: bool = False
    floor: float = 1e-6
    offset: float = 0.0
    normalize: Literal["none", "clip", "peak"] = "none"
    coefs: int | None = None
    dct: Literal["ortho", "htk"] = "ortho"
    rate_hz: int = 0
    samples: int = 0

    @property
    def window(self) -> int:
        return round(self.window_ms * self.rate_hz / 1000)

    @property
    def hop(self) -> int:
        return round(self.hop_ms * self.rate_hz / 1000)

    @property
    def fft_length(self) -> int:
        return self.fft or 1 << max(self.window - 1, 1).bit_length()

    @property
    def top_hz(self) -> float:
        return self.rate_hz / 2 if self.fmax_hz is None else self.fmax_hz

    @property
    def frames(self) -> int:
        samples = self.samples + (2 * (self.window // 2) if self.center else 0)
        return 1 + (samples - self.window) // self.hop

    def ops(self) -> list[Op]:
        """The operations from (samples,) to (mels or coefs, frames)."""
        return list(_ops(self))


LOG_MEL_KEYS = tuple(f.name for f in fields(Mel) if f.name not in ("coefs", "dct", "rate_hz", "samples"))
MFCC_KEYS = (*LOG_MEL_KEYS, "coefs", "dct")
KINDS = {"log_mel": LOG_MEL_KEYS, "mfcc": MFCC_KEYS}


def parse(features: Any, *, rate_hz: int, samples: int) -> Mel | None:
    """Read and check the card's ``features``.

    Raises:
        CardError: One mistake in it; Mistakes: several. Neither names the input.
    """
    if features is None or features == "none":
        return None
    if isinstance(features, str) and features in KINDS:
        features = {features: {}}
    if not isinstance(features, dict) or len(features) != 1 or next(iter(features)) not in KINDS:
        raise CardError(f"features is {features!r}.", fix="write none, {log_mel: {...}} or {mfcc: {...}}.")
    kind, settings = next(iter(features.items()))
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise CardError(f"features.{kind} is {settings!r}.", fix=f"write {{{kind}: {{mels: 40, window_ms: 25, hop_ms: 10}}}}.")
    declared = {field.name: Option(field.name, ast.parse(str(field.type), mode="eval").body, field.default) for field in fields(Mel)}
    wrong = options.check(settings, {key: declared[key] for key in KINDS[kind]}, f"features.{kind}", CardError)
    if wrong:
        raise CardError(wrong[0].what, why=wrong[0].why, fix=wrong[0].fix) if len(wrong) == 1 else Mistakes(wrong)
    mel = Mel(**({"coefs": 13} if kind == "mfcc" else {}) | settings, rate_hz=rate_hz, samples=samples)
    _check(mel, kind)
    return mel


def _check(mel: Mel, kind: str) -> None:
    rules = [
        (mel.mels >= 1, f"mels is {mel.mels}.", "write a number of bands, at least 1."),
        (mel.window >= 2, f"window_ms is {mel.window_ms}.", f"at {mel.rate_hz} Hz a window of two samples needs {2000 / mel.rate_hz} ms."),
        (mel.hop >= 1, f"hop_ms is {mel.hop_ms}.", f"at {mel.rate_hz} Hz one sample is {1000 / mel.rate_hz} ms."),
        (
            mel.fft_length >= mel.window,
            f"fft is {mel.fft}, shorter than the window of {mel.window} samples.",
            "make fft at least that long.",
        ),
        (
            0 <= mel.fmin_hz < mel.top_hz <= mel.rate_hz / 2,
            f"the bands reach from {mel.fmin_hz} to {mel.top_hz} Hz.",
            f"keep 0 <= fmin_hz < fmax_hz <= {mel.rate_hz / 2}, half the rate.",
        ),
        (mel.power > 0, f"power is {mel.power}.", "write 2 (power) or 1 (magnitude)."),
        (mel.floor > 0, f"floor is {mel.floor}.", "the logarithm needs a floor above 0."),
        (mel.offset >= 0, f"offset is {mel.offset}.", "write a number of at least 0."),
        (mel.coefs is None or 1 <= mel.coefs <= mel.mels, f"coefs is {mel.coefs}.", f"keep between 1 and the {mel.mels} bands."),
        (
            mel.samples + (2 * (mel.window // 2) if mel.center else 0) >= mel.window,
            f"the clip of {mel.samples} samples is shorter than one window of {mel.window}.",
            "lengthen seconds or shorten window_ms.",
        ),
        (not mel.center or mel.window // 2 < mel.samples, "center mirrors more than the clip holds.", "lengthen seconds."),
    ]
    for holds, what, fix in rules:
        if not holds:
            raise CardError(f"features.{kind}: {what}", fix=fix)


@functools.lru_cache(maxsize=16)
def _ops(mel: Mel) -> tuple[Op, ...]:
    bank = bands(mel)
    used = np.flatnonzero(bank.any(axis=0))  # bins outside all bands need no convolution
    ops: list[Op] = [Peak()] if mel.normalize == "peak" else []
    ops += [Reflect(mel.window // 2)] if mel.center else []
    ops += [Frames(_fourier(mel, used), mel.hop), Power(mel.power), MatMul(bank[:, used].astype(np.float32)), Log(mel.floor, mel.offset)]
    if mel.coefs is not None:
        ops.append(MatMul(_cosines(mel)))
    if mel.normalize == "clip":
        ops.append(Normalize())
    return tuple(ops)


def _fourier(mel: Mel, bins: np.ndarray) -> np.ndarray:
    """Windowed cosines, then sines, (2 * bins, 1, window): the discrete Fourier transform as a convolution."""
    at = np.arange(mel.window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / mel.window)  # periodic
    angle = 2 * np.pi * np.outer(bins, at) / mel.fft_length
    return (np.concatenate([np.cos(angle), -np.sin(angle)]) * hann)[:, None].astype(np.float32)


def bands(mel: Mel) -> np.ndarray:
    """Triangular mel bands over the bins of the Fourier transform, float64 (mels, fft / 2 + 1).

    Source: HTK scale: Young et al., The HTK Book, ch. 5. Slaney scale and norm: Slaney, Auditory Toolbox (1998).
    """
    hz = np.arange(mel.fft_length // 2 + 1) * mel.rate_hz / mel.fft_length
    mel_edges = np.linspace(_to_mel(mel.fmin_hz, mel.mel_scale), _to_mel(mel.top_hz, mel.mel_scale), mel.mels + 2)
    hz_edges = _to_hz(mel_edges, mel.mel_scale)
    edges, at = (hz_edges, hz) if mel.mel_slope == "hz" else (mel_edges, _to_mel(hz, mel.mel_scale))
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank: np.ndarray = np.maximum(0.0, np.minimum((at - low) / (peak - low), (high - at) / (high - peak)))
    return bank * (2.0 / (hz_edges[2:] - hz_edges[:-2]))[:, None] if mel.mel_norm == "slaney" else bank


def _to_mel(hz: Any, scale: str) -> Any:
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(hz < 1000.0, hz * 3 / 200, 15.0 + 27.0 * np.log(np.maximum(hz, 1000.0) / 1000.0) / np.log(6.4))


def _to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def _cosines(mel: Mel) -> np.ndarray:
    """Discrete cosine transform II, (coefs, mels)."""
    k, n = np.arange(mel.coefs or 0)[:, None], np.arange(mel.mels)[None]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * mel.mels)) * np.sqrt(2.0 / mel.mels)
    if mel.dct == "ortho":
        matrix[0] /= np.sqrt(2.0)
    table: np.ndarray = matrix.astype(np.float32)
    return table
