"""Pictures of rows of train as they come, and as a training changes them."""

from __future__ import annotations

import numpy as np

from edgemm.contracts.judged_parts import AugmentedInput
from edgemm.contracts.modality import Modality
from edgemm.contracts.stream import Pictures, Sound, Texts
from edgemm.data.augmenting import Augmenter
from edgemm.data.dataset import TableDataset
from edgemm.report.png import data_uri

ROWS, TIMES = 4, 4
"""Rows that are shown, and how often each of them is changed."""
LARGEST = 112  # pixels a side: four rows of five take 200 KB in colours
WINDOW = 256  # samples of a frame of a spectrogram


def pictures(dataset: TableDataset, augmenter: Augmenter) -> list[AugmentedInput]:
    """Of each input that is augmented, some rows: first as it is, then as epochs see it."""
    batch = next(iter(dataset.batches("train", ROWS, shuffle=0)))
    changed = [augmenter.augmented(batch, epoch, 0) for epoch in range(TIMES)]
    shown = []
    for name in augmenter.augmented_inputs:
        columns = [batch.inputs[name], *(one.inputs[name] for one in changed)]
        if dataset.card.inputs[name].steps:
            columns = [values[:, 0] for values in columns]
        rows = [[_shown(values[row], dataset.parts[name]) for values in columns] for row in range(len(batch.rows))]
        shown.append(AugmentedInput(name, rows))
    return shown


def _shown(sample: np.ndarray, part: Modality) -> str:
    """The words of a text; the address of a picture of anything else, "" where nothing can be drawn."""
    stream = part.stream()
    if isinstance(stream, Texts):
        return part.words(sample)
    if isinstance(stream, Pictures):
        values = sample if sample.dtype == np.uint8 else _spread(sample)
        values = values[..., :3] if values.shape[-1] >= 3 else values[..., 0]
        return data_uri(_smaller(values[..., ::-1] if stream.order == "bgr" and values.ndim == 3 else values))
    if isinstance(stream, Sound):
        return data_uri(_smaller(_spectrogram(sample)))
    return data_uri(_smaller(_spread(sample).T)) if sample.ndim == 2 else ""


def _spectrogram(wave: np.ndarray) -> np.ndarray:
    """uint8 (height, frames), low tones at the bottom, from 60 dB below the loudest."""
    wave = np.pad(wave, (0, max(0, WINDOW - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[:: max(1, (len(wave) - WINDOW) // LARGEST + 1)]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)))
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    return _spread(np.clip(decibels, decibels.max() - 60, None)).T[::-1]


def _spread(values: np.ndarray) -> np.ndarray:
    """Whatever numbers as uint8, the least black and the most white."""
    low, high = float(values.min()), float(values.max())
    grey: np.ndarray = ((values - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    return grey


def _smaller(pixels: np.ndarray) -> np.ndarray:
    """Every so manieth pixel, so that no side is above ``LARGEST``."""
    by = max(1, -(-max(pixels.shape[:2]) // LARGEST))
    return pixels[::by, ::by]
