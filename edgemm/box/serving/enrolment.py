"""The gallery of one output in a run: its file is read, and written to by whoever enrols somebody while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.serving import gallery as galleries
from edgemm.box.serving.gallery import Gallery
from edgemm.box.serving.names import Names
from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays
from edgemm.errors import RunError, nearest

ENROL, FORGET = "enrol", "forget"
LONGEST = 80  # characters of a name: it stands in topics, on the page and in events


class Enrolment:
    """A gallery in use.

    Args:
        may_be_missing: There need be no file yet: the first who is enrolled makes it.

    Raises:
        DataError: The file is no gallery, or one of another model.
        RunError: There is none.
    """

    controls: tuple[str, ...] = (ENROL, FORGET)

    def __init__(self, bundle: Bundle, output: str, path: str, *, may_be_missing: bool) -> None:
        self._output, self._path = output, Path(path)
        self._model, self._width = model_of(bundle), _width(bundle, output)
        if not self._path.exists() and not may_be_missing:
            raise RunError(
                f"decisions.{output}.gallery: there is no '{path}'.",
                why="nobody is known, and without page or broker nobody can be enrolled.",
                fix=f"make it: edgemm index {bundle.path} -d DATA -o {path}; or add web: to run.yaml and enrol on the page.",
            )
        self._seen = self._stamp()
        self._gallery = self._read()

    def names(self) -> Names:
        gallery = self._gallery

        def read(answers: Arrays) -> Observation:
            return Observation(gallery.scores(answers[self._output]))

        return Names(gallery.labels, self._output, read, is_like=True, threshold=gallery.threshold)

    def is_stale(self) -> bool:
        return self._stamp() != self._seen

    def refresh(self) -> None:
        self._seen = self._stamp()
        self._gallery = self._read()

    def set(self, control: str, value: str, vector: Callable[[], np.ndarray | None]) -> None:
        """Enrol what is seen now under a name, or forget a name; the file is written at once.

        Raises:
            RunError: The name is empty, too long or not known, or nothing is seen.
            OutputError: The file cannot be written.
        """
        name = " ".join(value.split())
        if not name or len(name) > LONGEST or not name.isprintable():
            raise RunError(f"{value!r} is no name.", fix=f"write one of at most {LONGEST} characters.")
        if control == FORGET and name not in self._gallery.labels:
            raise RunError(f"nobody here is called '{name}'.", fix=nearest(name, self._gallery.labels) if self._gallery.labels else "")
        if control == FORGET:
            changed = self._gallery.without(name)
        else:
            seen = vector()
            if seen is None:
                raise RunError(f"'{name}' cannot be enrolled.", why="nothing was seen yet.", fix="wait until a decision was taken.")
            changed = self._gallery.with_one(name, seen)
        changed.save(self._path)
        self._seen, self._gallery = self._stamp(), changed

    def describe(self) -> dict[str, Any]:
        counts = {name: int((self._gallery.names.astype(str) == name).sum()) for name in self._gallery.labels}
        return {"gallery": self._path.name, "names": counts}

    def _read(self) -> Gallery:
        if not self._path.exists():
            return Gallery(np.zeros((0, self._width), np.float32), np.zeros(0, "U1"), self._output, self._model)
        gallery = galleries.load(self._path)
        gallery.require(self._path, self._output, self._width, self._model)
        return gallery

    def _stamp(self) -> tuple[int, int] | None:
        """When the file was written, and its size; None where there is none."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size


def model_of(bundle: Bundle) -> str:
    """What a gallery calls the model whose vectors it holds: the same however that was compressed for a target."""
    return str(bundle.manifest["files"]["model.onnx"]["sha256"])


def _width(bundle: Bundle, output: str) -> int:
    shape = bundle.manifest["outputs"][output]["tensor"]["shape"]
    return int(np.prod([size for size in shape[1:] if isinstance(size, int)]))
