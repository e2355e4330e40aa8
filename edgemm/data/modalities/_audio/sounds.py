"""Sound files to samples, with soundfile (libsndfile)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from edgemm.errors import DataError

CUT = re.compile(r"(?:data|SSND) : (?P<promised>\d+) \(should be (?P<there>\d+)\)")  # libsndfile notes it, and goes on
STREAMED = 0xFFFFFF00  # what writers to a pipe promise, not knowing the length


def read(source: Path | io.BytesIO, name: str, frames: Callable[[int], int]) -> tuple[np.ndarray, int]:
    """The beginning of a sound file.

    Args:
        name: How an error calls it.
        frames: Rate of the file in Hz -> how many frames are wanted; fewer come back from a shorter file.

    Returns:
        float32 (frames, channels) in [-1, 1], and the rate in Hz.

    Raises:
        DataError: Not a sound file, or damaged.
    """
    try:
        with soundfile.SoundFile(source) as file:
            frame_count = frames(file.samplerate)
            wave = file.read(frame_count, dtype="float32", always_2d=True)
            cut = CUT.search(file.extra_info) if len(wave) < frame_count else None
            if cut and int(cut["there"]) < int(cut["promised"]) < STREAMED:
                raise ValueError(f"its header promises {cut['promised']} bytes of sound, {cut['there']} are there")
            return wave, file.samplerate
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as err:
        raise DataError(
            f"{name} cannot be read as sound.",
            why=f"{err}".rstrip(".") + ".",
            fix="replace the file; WAV, FLAC, OGG and whatever else libsndfile reads will do.",
        ) from err
