"""`edgemm compress`: go the whole way: card to measured bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.bundle import packing, seal
from edgemm.box.devices import threads
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.recipe import load as load_recipe
from edgemm.contracts.report import Report
from edgemm.contracts.report import read as read_report
from edgemm.errors import DataError, RecipeError
from edgemm.pipeline import assembling, compiling, ledger, reporting, stages, torch_steps
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import Job, start
from edgemm.pipeline.torch_steps import Shaped
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import Artifact
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
    seed: int = 0,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Compress a model by a recipe, prove it, measure it, and pack it.

    Finished stages are found again by what they depend on: a killed run goes on where it was, and a second run of the same command
    only packs.

    Args:
        card: A model.yaml, a folder with one, a shipped card's name, or an ``.onnx`` file (one without a card gets one drafted).
        recipe: A recipe file, or the name of a shipped one (see ``edgemm list recipes``).
        output: The bundle: a folder, or a file ending in ``.edgemm``; what stood there is replaced.
        data: The dataset; may be left out for an ``.onnx`` file, which is then calibrated on synthetic samples, and the report says so.
        sign: PEM private key (ed25519) to sign the bundle with.
        checkpoint: Folder for what the recipe's torch steps left, in float: model.yaml, weights and records. It loads as any card does, and
            can be compressed again.
        seed: Of the calibration choice and of synthetic samples.
        skip_bad_rows: Leave out rows that cannot be read instead of stopping; the report counts them.

    Raises:
        EdgemmError: Anything a user can mend, before work starts where it can be known.
    """
    output = Path(output)
    packing.check_place(output)
    signer = seal.public_hex(sign) if sign else None
    job = start(card, data, needed=("test",), seed=seed, skip_bad_rows=skip_bad_rows, progress=progress)
    chosen = load_recipe(recipe, card=job.card)
    if data is None and not job.card.is_onnx:
        raise DataError("this model needs a dataset.", why="calibration and accuracy need real samples.", fix="add -d DATA.")
    if checkpoint is not None:
        _check_checkpoint(Path(checkpoint), output, job, chosen)

    def whole_way(scratch: Path) -> Path:
        return _whole_way(job, chosen, scratch, sign=sign, has_rows=data is not None)

    artifact = job.stage(
        "compress", _facts(job, chosen, signer), whole_way, targets=[*chosen.targets, "torch", "onnxruntime"], on_this_machine=True
    )
    packing.copy(artifact.folder, output)
    checkpoint_folder = None if checkpoint is None else _copied(Path(checkpoint), job, chosen)
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


def _whole_way(job: Job, recipe: Recipe, scratch: Path, *, sign: Path | None, has_rows: bool) -> Path:
    """From the checkpoint to the bundle, in a folder of ``scratch``."""
    if not threads.wait_passively():  # before what follows imports torch
        job.progress.note(threads.TOO_LATE)
    torch_steps.check(job, recipe)
    opset = stages.opset(recipe)  # asks the targets, which import their runtimes: not where all is found in the cache
    exported = stages.export(job, opset=opset)
    reference = stages.reference(job, exported) if has_rows else None
    shaped = torch_steps.shape(job, exported, recipe, opset=opset)
    compiled = [_compiled(job, exported, shaped, recipe, name, opset) for name in recipe.targets]
    branch_ledger = ledger.take(job, exported, shaped.job, shaped.exported, compiled)
    report = reporting.benchmark(job, exported, reference, compiled, recipe, shaped, branch_ledger)
    return assembling.assemble(scratch / "bundle", shaped, reference, compiled, recipe, report, branch_ledger, sign) / "manifest.json"


def _copied(folder: Path, job: Job, recipe: Recipe) -> Path:
    """The checkpoint that the torch steps left, at ``folder``; the steps are found in the cache, and run again if somebody tidied it."""
    again, opset = replace(job, made=[], reused=[]), stages.opset(recipe)
    files.copy(torch_steps.shape(again, stages.export(again, opset=opset), recipe, opset=opset).job.card, folder)
    return folder


def _compiled(job: Job, exported: Artifact, shaped: Shaped, recipe: Recipe, name: str, opset: int) -> Compiled:
    """What one target gets; accuracy is held against the original, and training with quantization is at hand where the card can train."""
    qat = None if job.card.model else partial(torch_steps.retrain, shaped, job, recipe, opset=opset)
    return compiling.compile_for(
        shaped.job, shaped.exported, recipe, name, start=shaped.graph, original=(job, exported), qat=None if shaped.graph else qat,
        heaviest_cut=shaped.heaviest_cut(),
    )  # fmt: skip


def _facts(job: Job, recipe: Recipe, signer: str | None) -> dict[str, Any]:
    """What the whole way depends on besides the code, the packages and the machine."""
    return {
        "edgemm": __version__,
        "model": job.identity,
        "recipe": [recipe.name, recipe.sha256],
        "named": [torch_steps.named(step, job.card) for step in recipe.torch_steps()],
        "data": job.fingerprint,
        "seed": job.seed,
        "skip_bad_rows": job.skip_bad_rows,
        "signer": signer,
    }
