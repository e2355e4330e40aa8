"""A clip of sound as a spectrogram from which a stretch of a band can be taken, and the sound that is left."""

from __future__ import annotations

import numpy as np

WINDOW_S = 0.032
QUIET = 0.1
"""Quantile over the clip's moments that counts as a tone's background, where it is no louder than that of half of all tones."""
SHOWN_DB, SILENT_DB = 70.0, -100.0
SHOWN_ROWS, SHOWN_COLUMNS = 64, 128


class Spectrum:
    """The Fourier transform of overlapping frames, root of Hann before and after it, so that the sum of all frames is the clip again.

    Args:
        clip: float64 (samples,).

    Attributes:
        frames: How many there are.
    """

    def __init__(self, clip: np.ndarray, rate_hz: int) -> None:
        self._clip, self._rate_hz = clip, rate_hz
        self._window = max(16, 2 ** round(np.log2(max(2.0, WINDOW_S * rate_hz))))
        self._hop = self._window // 2
        self.frames = -(-len(clip) // self._hop) + 1
        padded = np.zeros((self.frames + 1) * self._hop)
        padded[self._hop : self._hop + len(clip)] = clip
        self._taper = np.sin(np.pi * (np.arange(self._window) + 0.5) / self._window)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._window)[:: self._hop]
        self._spectra = np.fft.rfft(frames * self._taper, axis=1)
        self._hz = np.fft.rfftfreq(self._window, 1 / rate_hz)
        loudness = np.abs(self._spectra)
        quiet = np.quantile(loudness, QUIET, axis=0)
        self._gain = np.minimum(1.0, np.minimum(quiet, np.median(quiet)) / np.maximum(loudness, 1e-12))  # a hum is no background

    def bands(self, count: int) -> np.ndarray:
        """Edges of bands that are alike wide in mel (2595 log10(1 + f/700)), in Hz, from 0 to half the rate: (count + 1,)."""
        return _hz(np.linspace(0, _mel(self._rate_hz / 2), count + 1))

    def without(self, low_hz: float, high_hz: float, begin: int, end: int) -> np.ndarray:
        """The clip in which a band is down to its background in the frames from ``begin`` to ``end``; float64 (samples,)."""
        is_last = high_hz >= self._hz[-1]
        band = np.flatnonzero((self._hz >= low_hz) & ((self._hz < high_hz) | is_last))
        taken = np.zeros_like(self._spectra[begin:end])
        taken[:, band] = self._spectra[begin:end, band] * (1 - self._gain[begin:end, band])
        lost = np.zeros((self.frames + 1) * self._hop)
        for number, frame in enumerate(np.fft.irfft(taken, self._window, axis=1) * self._taper, begin):
            lost[number * self._hop : number * self._hop + self._window] += frame
        return self._clip - lost[self._hop : self._hop + len(self._clip)]

    def picture(self) -> np.ndarray:
        """uint8 (rows, columns, 1): loudness down to 70 dB below the loudest, low tones at the bottom, rows alike wide in mel."""
        loudness = 20 * np.log10(np.maximum(np.abs(self._spectra), 1e-9))
        rows = np.interp(self.bands(SHOWN_ROWS - 1)[::-1], self._hz, np.arange(len(self._hz)))
        columns = np.linspace(0, self.frames - 1, SHOWN_COLUMNS)
        shown = loudness[np.rint(columns).astype(np.int64)][:, np.rint(rows).astype(np.int64)].T
        level = np.clip((shown - max(float(shown.max()), SILENT_DB) + SHOWN_DB) / SHOWN_DB, 0, 1)
        return np.rint(255 * level).astype(np.uint8)[..., None]


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


def _hz(mel: np.ndarray) -> np.ndarray:
    return np.asarray(700 * (10 ** (mel / 2595) - 1))
