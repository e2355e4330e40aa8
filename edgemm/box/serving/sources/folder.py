"""A folder of recordings played one after the other: pictures, sounds, clips, texts and measurements, in the order of their names."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.serving.sources._av.recorded import CLIPS, KNOWN, fed, is_picture, is_still, items_of
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs
from edgemm.contracts.stream import Sound
from edgemm.errors import RunError

PLACES = ("*/",)
PAUSE_S = 0.25  # behind what has a length: its end is decided on before the next begins, which a window must not reach over
NOTES = 3  # scenes that are told of


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
        self._path, self._seconds, self.length_s = Path(path), seconds, 0.0
        self._stop = threading.Event()

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"path": place}

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        self._stop.clear()
        begin_s, scenes = 0.0, self._scenes()
        has_pictures = any(is_picture(file) for files in scenes for file in files)
        for files in scenes:
            first, end_s, heard = True, begin_s, Counter[str]()
            for item in _merged(files, wants, has_pictures, lambda: self.unwatched):
                if self._stop.is_set():
                    return
                item = replace(item, time_s=begin_s + item.time_s, discontinuity=item.discontinuity or (first and begin_s > 0))
                first, end_s = False, max(end_s, item.time_s)
                heard[item.input] += len(item.value) if isinstance(item.value, np.ndarray) else 1
                yield item
            self._note_short(files[0].stem, wants, heard)
            shown_s = 0.0 if any(file.suffix.lower() in CLIPS for file in files) else self._seconds
            self.length_s = max(end_s, begin_s + shown_s)
            begin_s = max(self.length_s, end_s + PAUSE_S if end_s > begin_s else begin_s)

    def _note_short(self, name: str, wants: Mapping[str, Modality], heard: Mapping[str, int]) -> None:
        """Tell of sound that never filled its window."""
        sounds = {fed: stream for fed in heard if isinstance(stream := wants[fed].stream(), Sound)}
        short = [stream.shortage(heard[fed], name, fed) for fed, stream in sounds.items() if heard[fed] < stream.samples]
        self.notes += [words for words in short if words not in self.notes][: max(0, NOTES - len(self.notes))]

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


def _merged(
    files: list[Path], wants: Mapping[str, Modality], has_pictures: bool, unwatched: Callable[[], Collection[str]]
) -> Iterator[Item]:
    """The items of files that belong together, what has no length first: a still is there from the beginning of its sound."""
    for file in sorted(files, key=lambda path: not is_still(path)):
        if inputs := fed(file, wants, has_pictures=has_pictures):
            yield from items_of(file, inputs, unwatched)
