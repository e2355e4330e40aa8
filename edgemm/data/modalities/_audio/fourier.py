"""From a waveform to bands of its short-time Fourier transform, as fixed operations: by one dense matrix, or factorized.

Factorized: with N = N1 * N2, sample n = N2 n1 + n2 and bin k = k1 + N1 k2, the transform is one of length N1 down the columns of the frame
laid out in N1 rows, a turn of each value by exp(-2 pi i n2 k1 / N), and one of length N2 along the rows. The samples are real, so rows k1
beyond N1 / 2 mirror others and are left out; so are the columns k2 in which no row has a bin that a band reads.

Source: Cooley and Tukey, An Algorithm for the Machine Calculation of Complex Fourier Series, Math. Comp. 19 (1965).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgemm.contracts.frontend_ops import Bands, Blocks, Frames, MatMul, Op, Power, Spectrum

WORTH = 2.0
"""So many times the multiplications of the factorized form are the dense one's, or there is no factorized form."""


@dataclass(frozen=True, eq=False)
class Transform:
    """What is computed.

    Attributes:
        window: (samples of a frame,), at most ``length``.
        hop, frames: Samples between two frames; how many there are, in a wave of ``samples``.
        length: Of the Fourier transform.
        bank: (bands, length / 2 + 1): how much of a bin is in a band.
        exponent: Of the magnitude.
        before: (window, window), by which a frame is multiplied before its window; None = by nothing. Then there is the dense form alone.
    """

    window: np.ndarray
    hop: int
    frames: int
    samples: int
    length: int
    bank: np.ndarray
    exponent: float
    before: np.ndarray | None = None

    @property
    def bins(self) -> np.ndarray:
        """The bins that a band reads."""
        return np.flatnonzero(self.bank.any(axis=0))


def dense(transform: Transform) -> list[Op]:
    """One matrix of windowed cosines, then sines, slid over the wave."""
    bins = transform.bins
    angle = 2 * np.pi * np.outer(bins, np.arange(len(transform.window))) / transform.length
    weight = np.concatenate([np.cos(angle), -np.sin(angle)]) * transform.window
    weight = weight if transform.before is None else weight @ transform.before
    return [
        Frames(weight[:, None].astype(np.float32), transform.hop),
        Power(transform.exponent),
        MatMul(transform.bank[:, bins].astype(np.float32)),
    ]


def factorized(transform: Transform) -> list[Op]:
    """Two small matrices with a turn between them; [] where the length's factors would save too little."""
    if not pays(transform):
        return []
    columns = _columns(transform)
    layout = _Layout(transform, columns)
    half, rows = layout.bin_of.shape[0], layout.rows
    window = np.zeros(rows * columns)
    window[: len(transform.window)] = transform.window
    down = 2 * np.pi * np.outer(np.arange(half), np.arange(rows)) / layout.total_rows
    turn = 2 * np.pi * np.outer(np.arange(half), np.arange(columns)) / transform.length
    along = 2 * np.pi * np.outer(np.arange(columns), layout.read) / columns
    overrun = max((transform.frames - 1) * transform.hop + rows * columns - transform.samples, 0)
    return [
        Blocks(_single(window.reshape(rows, columns)), transform.hop, transform.frames, overrun),
        Spectrum(
            _single(np.cos(down)),
            _single(-np.sin(down)),
            _single(np.cos(turn)),
            _single(np.sin(turn)),
            _single(np.cos(along)),
            _single(np.sin(along)),
            transform.exponent,
        ),
        Bands(_single(layout.bank())),
    ]


def pays(transform: Transform) -> bool:
    """Whether there is a factorized form."""
    return transform.before is None and WORTH * factorized_products(transform) <= dense_products(transform)


def dense_products(transform: Transform) -> int:
    """Multiplications a frame by one matrix."""
    return 2 * len(transform.window) * len(transform.bins)


def factorized_products(transform: Transform) -> int:
    """Multiplications a frame by two matrices, at the best factors of the length."""
    return _products(transform, _columns(transform))


def _columns(transform: Transform) -> int:
    factors = (n for n in range(1, transform.length + 1) if transform.length % n == 0)
    return min(factors, key=lambda n: _products(transform, n))


class _Layout:
    """Where the bins stand when a frame has so many ``columns``.

    Attributes:
        total_rows: N1; ``rows``: those that the window reaches.
        bin_of: (N1 / 2 + 1, N2): which bin row k1 has in column k2, mirrored into the first half.
        read: The columns k2 that are computed.
    """

    def __init__(self, transform: Transform, columns: int) -> None:
        self.transform = transform
        self.total_rows = transform.length // columns
        self.rows = -(-len(transform.window) // columns)
        bins = np.arange(self.total_rows // 2 + 1)[:, None] + self.total_rows * np.arange(columns)
        self.bin_of = np.minimum(bins, transform.length - bins)
        self.read = np.flatnonzero(np.isin(self.bin_of, transform.bins).any(axis=0))

    def bank(self) -> np.ndarray:
        """(rows * columns read, bands): the bank in this order; a bin that stands in two places counts in the first."""
        places = self.bin_of[:, self.read].ravel()
        _, first = np.unique(places, return_index=True)
        bank = np.zeros((len(places), len(self.transform.bank)))
        bank[first] = self.transform.bank.T[places[first]]
        return bank


def _products(transform: Transform, columns: int) -> int:
    """Multiplications a frame."""
    layout = _Layout(transform, columns)
    half = len(layout.bin_of)
    return 2 * half * columns * layout.rows + 4 * half * columns * len(layout.read)


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
