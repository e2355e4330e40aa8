"""`edgemm demo`: show it all on a small model made on the spot.

A demo is what a user would type: it calls ``edgemm.train`` and ``edgemm.compress`` by their public names, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgemm
from edgemm.contracts import stage_code
from edgemm.contracts.report import Report
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import folder_in_one_step, require_writable, write_bytes
from edgemm.verbs._demo import scenes

RECIPE = "openvino-int8"
EPOCHS = 16  # val accuracy has stopped rising by then; about a minute on two cores
TRAINING = {"batch_size": 32, "learning_rate": 3e-3}  # 0.97 on test; batches of 64 at 1e-3 learn the scenes by heart and reach 0.77


@dataclass(frozen=True)
class Shown:
    """What a demo left.

    Attributes:
        data: The scene set, a dataset folder to look into and listen to.
        card: The trained model.
        bundle: The compressed one; its ``report.html`` is the page to open.
    """

    data: Path
    card: Path
    bundle: Path
    report: Report

    @property
    def page(self) -> Path:
        return self.bundle / "report.html"

    def __str__(self) -> str:
        sees, hears = scenes.ceiling("image"), scenes.ceiling("audio")
        alone = f"In these scenes a model that only sees is right {sees:.0%} of the time at best, one that only hears {hears:.0%}."
        return f"{self.report}\n\n{alone}"

    def to_dict(self) -> dict[str, Any]:
        return self.report.to_dict()


def demo(output: str | Path = "build/demo", *, epochs: int = EPOCHS, progress: Progress | None = None) -> Shown:
    """Make the porch scene set, train a picture-and-sound model on it, compress it for OpenVINO, measure it, write the report.

    Args:
        output: A folder; gets ``scenes``, ``porch`` (the model) and ``bundle``.
        epochs: Passes over the 2,400 training scenes.

    Raises:
        EdgemmError: As ``train`` and ``compress``.
    """
    folder, progress = Path(output), progress or Progress()
    require_writable(folder / "porch.yaml")
    data = folder / "scenes"
    with progress.stage("scenes"):
        _make_scenes(data)
    card, model = folder / "porch.yaml", folder / "porch"
    write_bytes(card, scenes.CARD.encode())
    edgemm.train(card, data=data, output=model, epochs=epochs, progress=progress, **TRAINING)
    done = edgemm.compress(model, recipe=RECIPE, data=data, output=folder / "bundle", progress=progress)
    return Shown(data, model / "model.yaml", done.bundle, done.report)


def ending(shown: Shown, **_: Any) -> Ending:
    """What the command line says at the end."""
    command = f"open {shown.page} in a browser; then: edgemm verify {shown.bundle}"
    return Ending(shown, (shown.bundle,), command, report=shown.report)


def _make_scenes(data: Path) -> None:
    """Write the scene set, unless this very edgemm wrote it before."""
    mark, code = data / ".made_by", stage_code.of(scenes.__name__).digest
    if mark.is_file() and mark.read_text(encoding="utf-8") == code:
        return
    with folder_in_one_step(data) as scratch:
        scenes.write(scratch)
        (scratch / mark.name).write_text(code, encoding="utf-8")
