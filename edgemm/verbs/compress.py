"""`edgemm compress`: go the whole way: card to measured bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgemm.box.bundle import packing, seal
from edgemm.box.bundle.opened import open_folder
from edgemm.box.bundle.slimming import unneeded
from edgemm.box.devices import threads
from edgemm.contracts import launched
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.recipe import load as load_recipe
from edgemm.contracts.report import Report
from edgemm.contracts.report import read as read_report
from edgemm.errors import DataError, RecipeError
from edgemm.pipeline import bundling, stages, together, torch_steps
from edgemm.pipeline.job import Job, start
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.workshop.models.checkpoint import files


@dataclass(frozen=True)
class Compressed:
    """What a run left.

    Attributes:
        bundle: Where the bundle is.
        report: Its report; ``report.missed`` names budgets that were missed.
        made, reused: Stages that ran, and stages found finished in the cache.
        checkpoint: The compressed float model as a checkpoint, where one was asked for.
    """

    bundle: Path
    report: Report
    made: tuple[str, ...]
    reused: tuple[str, ...]
    checkpoint: Path | None = None

    def __str__(self) -> str:
        return str(self.report)

    def to_dict(self) -> dict[str, Any]:
        return self.report.to_dict()


def compress(
    card: str | Path,
    *,
    recipe: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    sign: Path | None = None,
    checkpoint: str | Path | None = None,
    slim: bool = False,
    untrained: bool = False,
    seed: int = 0,
    processes: int = 1,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Compress a model by a recipe, prove it, measure it, and pack it.

    Finished stages are found again by what they depend on: a killed run goes on where it was, and a second run of the same command
    only packs. Of the processes that a launcher such as torchrun starts, one works and the first writes.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name, or an ``.onnx`` file (one without a card gets one drafted).
        recipe: A recipe file, or the name of a shipped one (see ``edgemm list recipes``).
        output: The bundle: a folder, or a file ending in ``.edgemm``; what stood there is replaced.
        data: The dataset; may be left out for an ``.onnx`` file, which is then calibrated on synthetic samples, and the report says so.
        sign: PEM private key (ed25519) to sign the bundle with.
        checkpoint: Folder for what the recipe's torch steps left, in float: model.yaml, weights and records. It loads as any card does, and
            can be compressed again.
        slim: Write no more than a box needs (see ``edgemm slim``); the whole bundle stays in the cache, where the same command without
            this finds it.
        untrained: Compress a card without weights all the same, with weights drawn at random; the report says so.
        seed: Of the calibration choice and of synthetic samples.
        processes: So many processes of this machine share each training step; all else is done by one.
        skip_bad_rows: Leave out rows that cannot be read instead of stopping; the report counts them.

    Raises:
        EdgemmError: Anything a user can mend, before work starts where it can be known.
    """
    output, is_first = Path(output), launched.is_first()
    progress = progress if is_first else None
    packing.check_place(output)
    if sign:
        seal.public_hex(sign)  # a key that cannot be read is told before any work
    together.require_processes(processes)
    job = start(card, data, needed=("test",), seed=seed, skip_bad_rows=skip_bad_rows, progress=progress)
    job = replace(job, processes=processes)
    chosen = load_recipe(recipe, card=job.card)
    if data is None and not job.card.is_onnx:
        raise DataError("this model needs a dataset.", why="calibration and accuracy need real samples.", fix="add -d DATA.")
    if checkpoint is not None:
        _check_checkpoint(Path(checkpoint), output, job, chosen)
    threads.wait_passively()  # before what follows imports torch
    stages.check_weights(job, untrained=untrained)

    with launched.alone():  # of several processes one makes it, the others wait for the stage and find it
        artifact = bundling.bundle(job, chosen, sign=sign)
        if is_first:
            packing.copy(artifact.folder, output, left_out=unneeded(open_folder(artifact.folder, output)) if slim else ())
        checkpoint_folder = _copied(Path(checkpoint), job, chosen) if checkpoint is not None and is_first else None
    return Compressed(output, read_report(artifact.sibling("report.json")), tuple(job.made), tuple(job.reused), checkpoint_folder)


def ending(compressed: Compressed, **_: Any) -> Ending:
    """What the command line says at the end."""
    written = (compressed.bundle,) if compressed.checkpoint is None else (compressed.bundle, compressed.checkpoint)
    return Ending(compressed, written, f"edgemm verify {compressed.bundle}", report=compressed.report)


def _check_checkpoint(folder: Path, output: Path, job: Job, recipe: Recipe) -> None:
    """Raises RecipeError where no step leaves a checkpoint, OutputError where ``folder`` cannot take one."""
    if not recipe.torch_steps():
        raise RecipeError(
            f"recipe '{recipe.name}' leaves no checkpoint.",
            why="none of its steps changes the float model; what it quantizes is in the bundle alone.",
            fix="leave out --checkpoint, or take a recipe with prune, distill or qat.",
        )
    files.check_place(folder, original=job.card.folder, apart=output)


def _copied(folder: Path, job: Job, recipe: Recipe) -> Path:
    """The checkpoint that the torch steps left, at ``folder``; the steps are found in the cache, and run again if somebody tidied it."""
    again, opset = replace(job, made=[], reused=[]), stages.opset(recipe)
    files.copy(torch_steps.shape(again, stages.export(again, opset=opset), recipe, opset=opset).job.card, folder)
    return folder
