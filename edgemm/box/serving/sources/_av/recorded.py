"""Files as items: pictures, sounds, clips, texts and measurements, each read as training reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from edgemm.box.serving.sources._av.reading import FORMATS, AvFrame, Reader
from edgemm.contracts.modality import Modality
from edgemm.contracts.number_cells import finite, numbers
from edgemm.contracts.source import Item, Paint, Region, fed_by
from edgemm.contracts.stream import PICTURES, SOUNDS, Numbers, Pictures, Sound, Texts
from edgemm.errors import DataError, MissingExtra, RunError

TEXTS, ARRAYS, TABLES = (".txt",), (".npy",), (".csv",)
CLIPS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ts")
KNOWN = (*PICTURES, *SOUNDS, *CLIPS, *TEXTS, *ARRAYS)
"""What a folder is searched for; a table may be anything there."""
LOG = logging.getLogger("edgemm.run")


@dataclass(frozen=True)
class StillFrame:
    """A picture file.

    Attributes:
        modality: What reads it.
        values: What that made of it, as in training.
        pixels: Their pixel format.
        extent: Height and width of the file's picture, upright.
        cost: It is decoded.
    """

    path: Path
    modality: Modality
    values: np.ndarray
    pixels: str
    extent: tuple[int, int]
    cost: int = 0

    def fitted(self, wanted: Pictures) -> np.ndarray:
        return self.values

    def deep(self) -> np.ndarray:
        return self.values

    def jpeg(self, width: int, *, region: Region | None = None, paint: Paint | None = None) -> bytes:
        picture = self._picture()
        if picture.extent != self.extent:  # it is the fitted one: nothing stands where it did
            return picture.jpeg(width)
        return picture.jpeg(width, region=region, paint=paint)

    def _picture(self) -> AvFrame:
        if self.values.dtype == np.uint8:
            try:
                return _frame_of(self.modality.whole(str(self.path), Path()), "rgb24")  # upright, which FFmpeg does not turn it
            except DataError:  # .npy is no file of pictures
                return _frame_of(self.values, self.pixels)
        grey = self.values[..., :1]
        low, high = float(grey.min()), float(grey.max())
        return _frame_of(((grey - low) * (255 / max(high - low, 1e-9))).astype(np.uint8), "gray")


def _frame_of(values: np.ndarray, pixels: str) -> AvFrame:
    values = values[..., 0] if pixels == "gray" else values
    return AvFrame(av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=pixels), VideoReformatter())


def fed(file: Path, wants: Mapping[str, Modality], *, alone: bool = False, has_pictures: bool = False) -> dict[str, Modality]:
    """Those of the inputs that a file is for, by its name.

    Args:
        alone: It is all that its source has; a text or table may hold numbers then, and in a folder is more likely to be notes.
        has_pictures: Its folder holds pictures; then an array is none.
    """
    suffix = file.suffix.lower()
    measured, said = fed_by(wants, Numbers), fed_by(wants, Texts)
    if suffix in ARRAYS:
        return measured or ({} if has_pictures else fed_by(wants, Pictures))
    if suffix in (*TEXTS, *TABLES):
        return (said if suffix in TEXTS else {}) or (measured if alone else {})
    pictures = {} if suffix in SOUNDS else fed_by(wants, Pictures)
    return pictures | ({} if suffix in PICTURES else fed_by(wants, Sound))


def is_picture(file: Path) -> bool:
    """Whether there is something to be seen in it, by its name."""
    return file.suffix.lower() in (*PICTURES, *CLIPS)


def is_still(file: Path) -> bool:
    """Whether it has no length of its own."""
    return file.suffix.lower() in (*PICTURES, *TEXTS, *TABLES, *ARRAYS)


def told_length_s(file: Path) -> float:
    """What a clip's container says of its length; 0 where it says nothing, or cannot be read: who plays it says why."""
    try:
        with av.open(str(file)) as container:
            return (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError, ValueError):
        return 0.0


def refuse(file: Path, wants: Mapping[str, Modality]) -> RunError:
    """What to say where a file without a length feeds none of the inputs."""
    suffix = file.suffix.lower()
    held = "a picture" if suffix in PICTURES else "a text or numbers" if suffix in TEXTS else "numbers"
    return RunError(f"'{file}' cannot be read for {', '.join(wants)}.", why=f"it holds {held}.", fix="give these inputs another source.")


def items_of(file: Path, inputs: Mapping[str, Modality], unwatched: Callable[[], Collection[str]] = tuple) -> Iterator[Item]:
    """What a file holds for these inputs, from time 0 on.

    Args:
        unwatched: As ``Reader`` has it.

    Raises:
        RunError: It cannot be read, or does not fit an input.
    """
    if not is_still(file):
        yield from Reader(str(file), live=False, unwatched=unwatched).items(inputs)
        return
    for name, modality in inputs.items():
        try:
            yield Item(name, _value(file, modality), 0.0)
        except MissingExtra as err:  # pillow: FFmpeg is there, and scales a little otherwise
            LOG.warning("%s is scaled otherwise than in training: %s %s", file.name, err.what, err.fix)
            yield from (replace(item, time_s=0.0) for item in Reader(str(file), live=False).items({name: modality}))
        except DataError as err:
            what = err.what if str(file) in err.what else f"'{file}' does not fit '{name}': {err.what}"
            raise RunError(what, why=err.why, fix=err.fix.replace(", or pass --skip-bad-rows", "")) from err


def _value(file: Path, modality: Modality) -> StillFrame | np.ndarray | str:
    stream = modality.stream()
    if isinstance(stream, Pictures):
        pixels = FORMATS[stream.channels, stream.order]
        return StillFrame(file, modality, modality.decode(str(file), Path()), pixels, modality.extent(str(file), Path()))
    if file.suffix.lower() in ARRAYS:
        return _measured(numbers(str(file), Path()), modality)
    try:
        words = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise DataError(f"'{file}' cannot be read.", why=f"{err}.", fix="store it as UTF-8, or remove it.") from err
    if isinstance(stream, Texts):
        return words
    lines = [words] if words.startswith("[") else [line for line in words.splitlines() if line.strip()] or [words]
    rows = [numbers(line, Path()) for line in lines]
    if len({row.shape for row in rows}) > 1:
        rows = [np.concatenate([row.reshape(-1) for row in rows])]
    return _measured(rows[0] if len(rows) == 1 else np.stack(rows), modality)


def _measured(values: np.ndarray, modality: Modality) -> np.ndarray:
    """A whole measurement, or one moment of a window."""
    stream = modality.stream()
    if isinstance(stream, Numbers) and stream.window is not None and values.shape == stream.window[1:]:
        return finite(values.astype(np.float32))
    return modality.decode(values, Path())
