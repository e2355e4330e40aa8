"""The words of one output in a run: those of the bundle, of a file, or new ones that somebody sends while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.text_tower import TextTower
from edgemm.box.serving.names import Names
from edgemm.contracts import task as tasks
from edgemm.contracts import word_file
from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays
from edgemm.contracts.word_file import Prompts
from edgemm.errors import RunError
from edgemm.store.artifact import write_bytes

WORDS = "words"
MOST = 1000  # words at once: each sentence takes a run of the tower


class AskedWords:
    """The words of an output, and the text tower that reads new ones.

    Args:
        path: The file of words that run.yaml names; None: those that the bundle came with.
        words: Those of the run so far, for another bundle.

    Raises:
        CardError: The file holds no words, or two that nothing can tell apart.
        RunError: The bundle goes without a text tower.
    """

    controls: tuple[str, ...] = (WORDS,)

    def __init__(self, bundle: Bundle, tower: TextTower, output: str, path: str | None, words: Prompts | None) -> None:
        self._tower, self._output, self._path = tower, output, Path(path) if path is not None else None
        self._asked, self._spec = tower.asked[output], bundle.card.outputs[output]
        self._seen = self._stamp()
        given = word_file.read_words(self._path) if self._path is not None and words is None else words
        self.words: Prompts = self._asked.words
        self._vectors: np.ndarray = self._asked.vectors
        if given is not None and dict(given) != dict(self.words):
            self._take(given, str(path or "run.yaml"))

    @property
    def is_other(self) -> bool:
        """Whether these are not the words that the bundle was measured with."""
        return dict(self.words) != dict(self._asked.words)

    def names(self) -> Names:
        vectors, labels, asked = self._vectors, tuple(self.words), self._asked
        task: Any = tasks.of(self._spec.with_options(labels=labels))

        def read(answers: Arrays) -> Observation:
            vector = np.ravel(answers[asked.vector]).astype(np.float64)
            cosines = vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
            return Observation(dict(zip(labels, task.shares(asked.scale * cosines + asked.bias).tolist(), strict=True)))

        return Names(labels, asked.vector, read)

    def is_stale(self) -> bool:
        return self._path is not None and self._stamp() not in (self._seen, None)

    def refresh(self) -> None:
        self._seen = self._stamp()
        assert self._path is not None  # or it is never stale
        self._take(word_file.read_words(self._path), str(self._path))

    def set(self, control: str, value: str, vector: Callable[[], np.ndarray | None]) -> None:
        """Hold the output against other words: ``parcel: [a parcel], nothing: [an empty porch]``, as YAML or JSON.

        The file that run.yaml names gets them.

        Raises:
            CardError: They are no words, or two of them read alike.
            RunError: They are too many.
            OutputError: The file cannot be written.
        """
        words = word_file.parse(value, WORDS)
        if len(words) > MOST:
            raise RunError(f"{len(words)} words are too many.", fix=f"at most {MOST}.")
        self._take(words, WORDS)
        if self._path is not None:
            write_bytes(self._path, word_file.as_text(words).encode())
            self._seen = self._stamp()

    def describe(self) -> dict[str, Any]:
        return {WORDS: {word: list(prompts) for word, prompts in self.words.items()}}

    def _take(self, words: Prompts, where: str) -> None:
        vectors = self._tower.vectors(self._output, words, where)
        self.words, self._vectors = words, vectors

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size) if stat else None


def require_tower(bundle: Bundle, output: str) -> None:
    """Raises RunError where a bundle cannot take new words for an output."""
    spec = bundle.card.outputs[output]
    if spec.task != "words":
        raise RunError(
            f"decisions.{output}.words: '{output}' is of task {spec.task}.",
            why="only one of task words is asked in words.",
            fix="remove it.",
        )
    if not spec.options.get("vector") or not TextTower.is_in(bundle):
        raise RunError(
            f"decisions.{output}.words: this bundle takes no new words.",
            why="its text tower stayed in the workshop, and only the vectors of its own words went along.",
            fix="build one that has it: edgemm init FOLDER --words words.yaml --with-text -o model.yaml, then edgemm compress model.yaml.",
        )
