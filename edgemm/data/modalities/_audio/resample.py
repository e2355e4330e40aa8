"""Change of sampling rate by a polyphase filter, in numpy."""

from __future__ import annotations

import functools
import math

import numpy as np

ZEROS = 10  # zero crossings of the windowed sinc on either side, and
BETA = 5.0  # the Kaiser window's shape: both as in scipy.signal.resample_poly, which the result equals


def resample(wave: np.ndarray, rate_hz: int, wanted_hz: int) -> np.ndarray:
    """Convert ``wave`` (samples,) from ``rate_hz`` to ``wanted_hz``; float32, ceil(samples * wanted / rate) long.

    Each output sample is a windowed-sinc interpolation of the input, low-passed at the lower of the two Nyquist frequencies. With
    up/down = wanted/rate in lowest terms only ``up`` different sets of taps occur, so outputs of one phase are one matrix product.

    Source: Crochiere and Rabiner, Multirate Digital Signal Processing (1983), ch. 3; filter as ``scipy.signal.resample_poly``.
    """
    up, down = _ratio(rate_hz, wanted_hz)
    if up == down:
        return wave.astype(np.float32)
    taps, half = _phases(up, down)
    length = -(-len(wave) * up // down)
    width = taps.shape[1]
    last = ((length - 1) * down + half) // up
    padded = np.zeros(width - 1 + max(last + 1, len(wave)), np.float32)
    padded[width - 1 : width - 1 + len(wave)] = wave
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    out = np.empty(length, np.float32)
    for first in range(min(up, length)):
        start, phase = divmod(first * down + half, up)
        count = len(range(first, length, up))
        out[first::up] = windows[start : start + (count - 1) * down + 1 : down] @ taps[phase]
    return out


def needed(samples: int, rate_hz: int, wanted_hz: int) -> int:
    """How many samples at ``rate_hz`` decide the first ``samples`` at ``wanted_hz``."""
    if rate_hz == wanted_hz:
        return samples
    up, down = _ratio(rate_hz, wanted_hz)
    return ((samples - 1) * down + ZEROS * max(up, down)) // up + 1


def _ratio(rate_hz: int, wanted_hz: int) -> tuple[int, int]:
    common = math.gcd(rate_hz, wanted_hz)
    return wanted_hz // common, rate_hz // common


@functools.lru_cache(maxsize=8)
def _phases(up: int, down: int) -> tuple[np.ndarray, int]:
    """Taps (phase, k) in the order of the input, and the filter's half length at the ``up``-fold rate."""
    widest = max(up, down)
    half = ZEROS * widest
    at = np.arange(-half, half + 1)
    lowpass = np.sinc(at / widest) * np.kaiser(2 * half + 1, BETA)
    lowpass *= up / lowpass.sum()
    width = -(-len(lowpass) // up)
    padded = np.zeros(width * up)
    padded[: len(lowpass)] = lowpass
    return np.ascontiguousarray(padded.reshape(width, up).T[:, ::-1], np.float32), half
