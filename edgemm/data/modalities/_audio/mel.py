"""Log-mel and MFCC as fixed operations: framed Fourier transform, mel bands, logarithm and cosine transform."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgemm.contracts.frontend_ops import Affine, Extend, Log, MatMul, Normalize, Op, Peak, Reflect, Transpose, Within
from edgemm.contracts.modality import Framing
from edgemm.data.modalities._audio import fourier


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
        window: ``hann`` is periodic; ``hann_symmetric`` begins and ends with 0 (Kaldi).
        dc: ``remove`` takes each frame's mean away (Kaldi).
        preemphasis: Of each frame's samples so much of the one before is taken away (Kaldi: 0.97).
        within: Logarithms further below the clip's largest are raised to that distance (Whisper: 8 ln 10 = 18.42068).
        length: Frames: those beyond are cut off, those that lack are 0, before ``scale``; None = as many as there are.
        last_frame: ``cut`` leaves out the last frame (Whisper).
        scale, shift: Behind all that: ``x * scale + shift``.
        frames_first: forward gets (frames, mels) instead of (mels, frames).
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
    window: Literal["hann", "hann_symmetric"] = "hann"
    dc: Literal["keep", "remove"] = "keep"
    preemphasis: float = 0.0
    within: float | None = None
    length: int | None = None
    last_frame: Literal["keep", "cut"] = "keep"
    scale: float = 1.0
    shift: float = 0.0
    frames_first: bool = False
    coefs: int | None = None
    dct: Literal["ortho", "htk"] = "ortho"
    rate_hz: int = 0
    samples: int = 0

    @property
    def window_samples(self) -> int:
        return round(self.window_ms * self.rate_hz / 1000)

    @property
    def hop(self) -> int:
        return round(self.hop_ms * self.rate_hz / 1000)

    @property
    def fft_length(self) -> int:
        return 1 << max(self.window_samples - 1, 1).bit_length() if self.fft is None else self.fft

    @property
    def top_hz(self) -> float:
        return self.rate_hz / 2 if self.fmax_hz is None else self.fmax_hz

    @property
    def padded(self) -> int:
        """Samples of the clip with what ``center`` mirrors."""
        return self.samples + (2 * (self.window_samples // 2) if self.center else 0)

    @property
    def frames(self) -> int:
        return 1 + (self.padded - self.window_samples) // self.hop

    @property
    def bins(self) -> int:
        """Of the Fourier transform of real samples."""
        return self.fft_length // 2 + 1

    def transform(self) -> fourier.Transform:
        """What is computed before bands become logarithms."""
        turns = np.arange(self.window_samples) / (self.window_samples - (self.window == "hann_symmetric"))
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * turns)
        return fourier.Transform(hann, self.hop, self.frames, self.padded, self.fft_length, bands(self), self.power, self._before())

    def _before(self) -> np.ndarray | None:
        """(window, window): what is done to a frame before its window; None = nothing. Source: Kaldi, feat/feature-window.cc."""
        size = self.window_samples
        matrix = np.eye(size)
        if self.dc == "remove":
            matrix -= 1 / size
        if self.preemphasis:
            emphasis = np.eye(size) - self.preemphasis * np.eye(size, k=-1)
            emphasis[0, 0] -= self.preemphasis
            matrix = emphasis @ matrix
        return matrix if self.dc == "remove" or self.preemphasis else None

    def ops(self) -> list[Op]:
        """The operations from (samples,) to (mels or coefs, frames)."""
        return self.forms()[DENSE]

    def forms(self) -> dict[str, list[Op]]:
        """Name of a way to compute the transform -> all operations with it; results are equal but for rounding."""
        return {name: list(ops) for name, ops in _forms(self).items()}

    def framing(self) -> Framing | None:
        """Its frames one by one; None where each depends on the largest of all, or there are others than the samples make."""
        is_whole = self.within is not None or self.length is not None or self.last_frame == "cut" or self.frames_first
        if self.normalize == "peak" or is_whole:
            return None
        after = _after(self)
        alone = sum(not isinstance(op, Normalize) for op in after)
        pad = (self.padded - self.samples) // 2
        beside = 2 * -(-pad // self.hop) + -(-self.window_samples // self.hop) - 1 if pad else 0  # edges that are computed in every window
        at_once = min(max(round(AT_ONCE_S * self.rate_hz / self.hop), 1) + beside, max(self.frames // 2, 1))
        return Framing(self.hop, self.window_samples, self.frames, pad, at_once, self._block, after, alone)

    def _block(self, frames: int) -> dict[str, list[Op]]:
        few = replace(self, center=False, samples=(frames - 1) * self.hop + self.window_samples)
        return {name: ops[: -len(_after(few))] for name, ops in few.forms().items()}


AT_ONCE_S = 0.26  # what five windows a second bring, and a packet of sound more
DENSE, FACTORIZED = "dense", "factorized"


@functools.lru_cache(maxsize=16)
def _forms(mel: Mel) -> dict[str, tuple[Op, ...]]:
    transform = mel.transform()
    before: list[Op] = [Peak()] if mel.normalize == "peak" else []
    before += [Reflect(mel.window_samples // 2)] if mel.center else []
    ways = {DENSE: fourier.dense(transform), FACTORIZED: fourier.factorized(transform)}
    return {name: (*before, *way, *_after(mel)) for name, way in ways.items() if way}


def _after(mel: Mel) -> list[Op]:
    """The operations behind the bands."""
    after: list[Op] = [Log(mel.floor, mel.offset)]
    after += [MatMul(_cosines(mel))] if mel.coefs is not None else []
    after += [Extend(-1)] if mel.last_frame == "cut" else []
    after += [Within(mel.within)] if mel.within is not None else []
    kept = mel.frames - (mel.last_frame == "cut")
    after += [Extend(mel.length - kept)] if mel.length not in (None, kept) else []
    after += (
        [Affine(np.full((1, 1), mel.scale, np.float32), np.full((1, 1), mel.shift, np.float32))]
        if (mel.scale, mel.shift) != (1.0, 0.0)
        else []
    )
    after += [Normalize()] if mel.normalize == "clip" else []
    return [*after, Transpose((2, 1))] if mel.frames_first else after


def bands(mel: Mel) -> np.ndarray:
    """Triangular mel bands over the bins of the Fourier transform, float64 (mels, fft / 2 + 1).

    Source: HTK scale: Young et al., The HTK Book, ch. 5. Slaney scale and norm: Slaney, Auditory Toolbox (1998).
    """
    hz = np.arange(mel.bins) * mel.rate_hz / mel.fft_length
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
