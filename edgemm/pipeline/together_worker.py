"""One of several processes that train one model. ``python -m edgemm.pipeline.together_worker GIVEN TOLD``, started by ``together.run``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemm.box.devices import threads
from edgemm.contracts import launched, plugins
from edgemm.contracts import recipe as recipes
from edgemm.contracts.libraries import quiet_imports, quiet_warnings
from edgemm.contracts.recipe import Step
from edgemm.errors import EdgemmError
from edgemm.pipeline import torch_steps
from edgemm.pipeline.job import start
from edgemm.progress import Progress


def main() -> int:
    """Do what ``GIVEN`` says. Returns the exit code."""
    given, told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    threads.wait_passively()
    progress = Told(told) if launched.is_first() else Progress()
    try:
        with quiet_imports(), quiet_warnings():
            DO[given["do"]](progress, **given["with"])
    except EdgemmError as err:
        _say(told, {"error": [type(err).__name__, err.what, err.why, err.fix]})
        return 1
    return 0


class Told(Progress):
    """Writes what it is told into a file."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def update(self, text: str, fraction: float | None = None) -> None:
        _say(self._file, {"update": [text, fraction]})

    def note(self, text: str) -> None:
        _say(self._file, {"note": [text]})


def _say(file: Path, words: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(words) + "\n")


def _train(progress: Progress, **arguments: Any) -> None:
    """``edgemm train``, as one of several."""
    plugins.function("verbs", "train")(**arguments, progress=progress)


def _step(
    progress: Progress, scratch: str, card: str, original: str, data: str, recipe: dict[str, Any], step: tuple[str, dict[str, Any]],
    opset: int, seed: int, skip_bad_rows: bool,
) -> None:  # fmt: skip
    """A step of a recipe that trains: the first process writes its checkpoint."""
    current, first = (start(of, data, seed=seed, skip_bad_rows=skip_bad_rows, progress=progress) for of in (card, original))
    whole = recipes.parse(recipe, card=first.card)
    with tempfile.TemporaryDirectory(prefix="edgemm-") as aside:
        place = Path(scratch if launched.is_first() else aside)
        torch_steps.run(place, current, first, whole, Step(step[0], step[1], "torch"), opset)


DO: Mapping[str, Callable[..., None]] = {"train": _train, "step": _step}

if __name__ == "__main__":
    sys.exit(main())
