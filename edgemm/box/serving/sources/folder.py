"""A folder of recordings played one after the other: pictures, sounds, clips, texts and measurements, in the order of their names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.serving.sources._av.reading import Reader
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs, fed_by
from edgemm.contracts.stream import Numbers, Pictures, Sound, Texts
from edgemm.errors import RunError

PLACES = ("*/",)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
TEXTS, NUMBERS = (".txt",), (".npy",)
CLIPS = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ts")
KNOWN = (*PICTURES, *SOUNDS, *CLIPS, *TEXTS, *NUMBERS)


class Folder(Source):
    """Files of the same name belong together: ``1.png`` is shown while ``1.wav`` is heard; ``.txt`` is a text, ``.npy`` a measurement."""

    def __init__(self, *, path: str, inputs: list[str] | str, seconds: float = 1.0, loop: bool = False) -> None:
        """
        Args:
            path: The folder; sub-folders are read too.
            inputs: The model's inputs it feeds.
            seconds: How long a picture, text or measurement without sound is shown.
            loop: Begin again at the end.
        """
        self.inputs, self.live, self.notes, self.loop = checked_inputs(inputs), False, [], loop
        self._path, self._seconds = Path(path), seconds
        self._stop = threading.Event()

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"path": place}

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        self._stop.clear()
        begin_s = 0.0
        for files in self._scenes():
            first, end_s = True, begin_s
            for item in _merged(files, wants):
                if self._stop.is_set():
                    return
                item = replace(item, time_s=begin_s + item.time_s, discontinuity=item.discontinuity or (first and begin_s > 0))
                first, end_s = False, max(end_s, item.time_s)
                yield item
            begin_s = max(end_s, begin_s + (0.0 if any(file.suffix.lower() in CLIPS for file in files) else self._seconds))

    def close(self) -> None:
        self._stop.set()

    def describe(self) -> str:
        return f"folder {self._path.name}"

    def _scenes(self) -> list[list[Path]]:
        if not self._path.is_dir():
            raise RunError(f"'{self._path}' is no folder.", fix="check the path.")
        scenes: dict[str, list[Path]] = {}
        for file in sorted(self._path.rglob("*")):
            if file.suffix.lower() in KNOWN:
                scenes.setdefault(file.stem, []).append(file)
        if not scenes:
            raise RunError(f"'{self._path}' holds no pictures, sounds or clips.", fix=f"known: {' '.join(KNOWN)}.")
        return [scenes[name] for name in sorted(scenes)]


def _merged(files: list[Path], wants: Mapping[str, Modality]) -> Iterator[Item]:
    """The items of files that belong together, what has no length first: a still is there from the beginning of its sound."""
    for file in sorted(files, key=lambda path: path.suffix.lower() in (*SOUNDS, *CLIPS)):
        suffix = file.suffix.lower()
        if suffix in (*TEXTS, *NUMBERS):
            yield from _read(file, wants)
            continue
        pictures, sounds = suffix not in SOUNDS, suffix not in PICTURES
        own = (fed_by(wants, Pictures) if pictures else {}) | (fed_by(wants, Sound) if sounds else {})
        if own:
            for item in Reader(str(file), live=False).items(own):
                yield item if sounds else replace(item, time_s=0.0)


def _read(file: Path, wants: Mapping[str, Modality]) -> Iterator[Item]:
    """A text for the inputs that texts feed, a measurement for those that numbers feed."""
    is_text = file.suffix.lower() in TEXTS
    try:
        content: str | np.ndarray = file.read_text(encoding="utf-8").strip() if is_text else np.load(file, allow_pickle=False)
    except (OSError, ValueError) as err:
        raise RunError(f"'{file}' cannot be read.", why=f"{err}.", fix="mend or remove it.") from err
    for name in fed_by(wants, Texts if is_text else Numbers):
        yield Item(name, content, 0.0)
