"""Another bundle without a pause: looked at whole, tried on its golden samples on this very box, and taken only then."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.golden import difference
from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.proving import verify
from edgemm.box.serving.model import Model, choose_target, open_model
from edgemm.box.serving.runner import Runner
from edgemm.errors import EdgemmError, RunError
from edgemm.redaction import redact

LOG = logging.getLogger("edgemm.run")
SPLIT_TOLERANCE = 2.0  # of the golden tolerance: a cut before a quantizer may round one step differently


class Swapper:
    """Takes the bundle at ``path`` again whenever ``ask`` was called; the old one serves until the new one has proved itself.

    Attributes:
        tries, swaps: How often another bundle was tried, and how often one was taken.
        error: Why the last one was not; "" where it was.
    """

    def __init__(self, runner: Runner, path: Path) -> None:
        self._runner, self._path = runner, path
        self._asked = threading.Event()
        self._busy = False
        self.tries, self.swaps, self.error = 0, 0, ""

    def ask(self, *_: object) -> None:
        """Called by a signal handler: only notes it."""
        self._asked.set()

    def look(self) -> None:
        """Called by the loop once a second: tries the new bundle in a thread of its own."""
        if self._asked.is_set() and not self._busy:
            self._asked.clear()
            self._busy = True
            threading.Thread(target=self._try, name="swap", daemon=True).start()

    def describe(self) -> dict[str, Any]:
        return {"tries": self.tries, "swaps": self.swaps, "error": self.error}

    def _try(self) -> None:
        try:
            bundle, model, note = self._proved()
            self._runner.take(bundle, model, note)
            self.swaps, self.error = self.swaps + 1, ""
            LOG.warning("the bundle at %s serves from now on%s", self._path, f"; {note}" if note else "")
        except EdgemmError as err:
            self.error = redact(f"{err.what} {err.why}".strip())
            LOG.error("the bundle at %s was not taken, the old one serves on: %s", self._path, self.error)
        finally:
            self._busy = False
            self.tries += 1

    def _proved(self) -> tuple[Bundle, Model, str]:
        verify(self._path).raise_if_bad()
        bundle = open_bundle(self._path)
        before, after = self._runner.bundle.card, bundle.card
        for kind in ("inputs", "outputs"):
            if list(getattr(before, kind)) != list(getattr(after, kind)):
                raise RunError(
                    f"the new bundle has other {kind}: {', '.join(getattr(after, kind))}.",
                    why=f"this run is set up for {', '.join(getattr(before, kind))}.",
                    fix="stop the run, and start it with the new bundle.",
                )
        if before.inputs != after.inputs or before.outputs != after.outputs:
            raise RunError(
                "the new bundle declares its inputs or outputs otherwise.", fix="stop the run, and start it with the new bundle."
            )
        settings = self._runner.settings
        choice = choose_target(bundle, settings.target)
        model = open_model(bundle, choice.target, settings)
        try:
            _try_parts(bundle, model)
        except EdgemmError:
            model.close()
            raise
        return bundle, model, choice.note


def _try_parts(bundle: Bundle, model: Model) -> None:
    """Run the golden samples branch by branch, as the loop does; ``verify`` has run them whole."""
    golden = bundle.golden()
    if golden is None or model.target not in golden.outputs:
        return
    for index in range(len(golden)):
        sample = golden.sample(index)
        outputs = model.answer({name: model.embed(name, np.asarray(sample[name])) for name in model.inputs})
        for name, expected in golden.outputs[model.target].items():
            allowed = golden.tolerance.get(model.target, {}).get(name, 0.0) * SPLIT_TOLERANCE
            gap = difference(outputs[name], expected[index])
            if gap > allowed:
                raise RunError(
                    f"golden sample {index}: '{name}' is off by {gap:.3g} where {allowed:.3g} is allowed.",
                    why="its branches, run one by one on this box, give another answer than the bundle promises.",
                    fix="pack the bundle again; the old one serves on.",
                )
