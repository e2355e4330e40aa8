"""What a run holds outputs against that may change while it runs: galleries that grow, words that are new, files that change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from edgemm.box.bundle.opened import Bundle
from edgemm.box.bundle.text_tower import TextTower
from edgemm.box.serving.asked_words import AskedWords, require_tower
from edgemm.box.serving.enrolment import Enrolment
from edgemm.box.serving.names import Names
from edgemm.box.serving.settings import Settings
from edgemm.contracts.word_file import Prompts
from edgemm.errors import EdgemmError
from edgemm.redaction import redact

LOG = logging.getLogger("edgemm.run")
Vector = Callable[[], "np.ndarray | None"]
"""What the output says now; None where nothing was decided yet."""


class Held(Protocol):
    """What one output is held against. Called under a lock.

    Attributes:
        controls: What can be set while running.
    """

    controls: tuple[str, ...]

    def names(self) -> Names: ...

    def is_stale(self) -> bool:
        """Whether its file was changed by somebody else."""
        ...

    def refresh(self) -> None:
        """Read the file again.

        Raises:
            EdgemmError: It holds something else; what was known stays.
        """
        ...

    def set(self, control: str, value: str, vector: Vector) -> None:
        """One of ``controls``.

        Raises:
            EdgemmError: The value does not fit; what was known stays.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """For status and page."""
        ...


class Knowing:
    """Everything that a run's outputs are held against.

    Attributes:
        error: Why the last change was not taken; "" where it was.
    """

    def __init__(self, bundle: Bundle, settings: Settings, target: str, *, before: Knowing | None = None) -> None:
        """
        Args:
            before: What was known with another bundle: words that were sent while it ran are held on to.

        Raises:
            EdgemmError: A file cannot be read or is of another model, or words are asked of a bundle that takes none.
        """
        self._held: dict[str, Held] = {}
        for output, decisions in settings.decisions.items():
            if decisions.gallery is not None:
                self._held[output] = Enrolment(bundle, output, decisions.gallery, may_be_missing=settings.can_enrol)
            if decisions.words is not None:
                require_tower(bundle, output)
        tower = TextTower(bundle, target) if TextTower.is_in(bundle) else None
        for output in tower.asked if tower else ():
            path = settings.decisions[output].words if output in settings.decisions else None
            assert tower is not None
            self._held[output] = AskedWords(bundle, tower, output, path, before.words_of(output) if before else None)
        self.error = ""
        self._lock, self._busy = threading.Lock(), False

    def words_of(self, output: str) -> Prompts | None:
        """The words that an output is asked."""
        held = self._held.get(output)
        return held.words if isinstance(held, AskedWords) else None

    def is_other(self, output: str) -> bool:
        """Whether an output is held against something else than it was measured by."""
        held = self._held.get(output)
        return held.is_other if isinstance(held, AskedWords) else held is not None

    def names(self) -> dict[str, Names]:
        """Output -> what it is held against."""
        return {output: one.names() for output, one in self._held.items()}

    def controls(self) -> Mapping[str, tuple[str, ...]]:
        """Output -> what can be set of it."""
        return {output: one.controls for output, one in self._held.items()}

    def set(self, what: str, value: str, vector: Callable[[str], np.ndarray | None]) -> str:
        """Set ``<output>/<control>``.

        Args:
            vector: Output -> what it says now.

        Returns:
            The output; "" where ``what`` is nothing that can be set here.

        Raises:
            EdgemmError: The value does not fit.
        """
        output, _, control = what.rpartition("/")
        held = self._held.get(output)
        if held is None or control not in held.controls:
            return ""
        with self._lock:
            try:
                held.set(control, value, lambda: vector(output))
            except EdgemmError as err:
                self.error = redact(f"{err.what} {err.why}".strip())
                raise
            self.error = ""
        return output

    def look(self, tell: Callable[[str], None]) -> None:
        """Called by the loop once a second: what changed on disk is read in a thread of its own, and ``tell`` called with the output."""
        stale = {output: one for output, one in self._held.items() if not self._busy and one.is_stale()}
        if stale:
            self._busy = True
            threading.Thread(target=self._refresh, args=(stale, tell), name="names", daemon=True).start()

    def _refresh(self, stale: Mapping[str, Held], tell: Callable[[str], None]) -> None:
        try:
            for output, one in stale.items():
                with self._lock:
                    one.refresh()
                tell(output)
            self.error = ""
        except EdgemmError as err:
            self.error = redact(f"{err.what} {err.why}".strip())
            LOG.error("what was known stays: %s", self.error)
        finally:
            self._busy = False

    def describe(self) -> dict[str, Any]:
        """For the status."""
        return {output: {**one.describe(), "controls": list(one.controls)} for output, one in self._held.items()} | (
            {"error": self.error} if self.error else {}
        )
