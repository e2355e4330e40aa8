"""The whole way as one stage: from a card and a recipe to a measured bundle. What `compress` does, and a search with the best it found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.bundle import seal
from edgemm.box.devices import threads
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.target import needs_accelerator
from edgemm.pipeline import answers as answering
from edgemm.pipeline import assembling, ledger, paying, reporting, stages, text_tower, torch_steps
from edgemm.pipeline import gates as gating
from edgemm.pipeline.accuracy_policy import BUDGET
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import Job
from edgemm.pipeline.torch_steps import Shaped
from edgemm.store.artifact import Artifact


def bundle(job: Job, recipe: Recipe, *, sign: Path | None = None) -> Artifact:
    """The bundle of a recipe, in the cache: ``manifest.json`` and what belongs to it, ``report.json`` among that.

    Args:
        sign: PEM private key (ed25519).

    Raises:
        EdgemmError: What a stage refuses or finds broken.
    """

    def whole_way(scratch: Path) -> Path:
        return _whole_way(job, recipe, scratch, sign=sign)

    return job.stage(
        "compress", _facts(job, recipe, seal.public_hex(sign) if sign else None), whole_way,
        targets=[*recipe.targets, "torch", "onnxruntime"], timed=True,
        accelerated=any(needs_accelerator(name, options) for name, options in recipe.targets.items()),
    )  # fmt: skip


def _whole_way(job: Job, recipe: Recipe, scratch: Path, *, sign: Path | None) -> Path:
    """From the checkpoint to the bundle, in a folder of ``scratch``."""
    if not threads.wait_passively():  # before what follows imports torch
        job.progress.note(threads.TOO_LATE)
    torch_steps.check(job, recipe)
    torch_steps.check_model(job, recipe)
    gating.check(job, recipe)
    opset = stages.opset(recipe)  # asks the targets, which import their runtimes: not where all is found in the cache
    exported = stages.export(job, opset=opset)
    reference = answering.reference(job, exported, decides=BUDGET in recipe.budgets) if job.data is not None else None
    shaped = torch_steps.shape(job, exported, recipe, opset=opset)
    with job.predictor:  # its processes, and the rows that they decoded, serve all that follows
        compiled = [_compiled(job, exported, shaped, recipe, name, opset) for name in recipe.targets]
        branch_ledger = ledger.take(job, exported, shaped.job, shaped.exported, compiled)
        gates = gating.fit(shaped.job, compiled, recipe, branch_ledger)
        texts = text_tower.files(job, compiled, opset=opset)
        report = reporting.benchmark(job, exported, reference, compiled, recipe, shaped, branch_ledger, gates)
    written = assembling.assemble(scratch / "bundle", shaped, reference, compiled, recipe, report, branch_ledger, gates, texts, sign)
    return written / "manifest.json"


def _compiled(job: Job, exported: Artifact, shaped: Shaped, recipe: Recipe, name: str, opset: int) -> Compiled:
    """What one target gets; accuracy is held against the original, and training with quantization is at hand where the card can train."""
    retrain = None if job.card.model else partial(torch_steps.retrain, shaped, job, recipe, opset=opset)
    return paying.compile_paying(
        shaped.job, shaped.exported, recipe, name, start=shaped.graph, original=(job, exported), retrain=None if shaped.graph else retrain,
        heaviest_cut=shaped.heaviest_cut(),
    )  # fmt: skip


def _facts(job: Job, recipe: Recipe, signer: str | None) -> dict[str, Any]:
    """What the whole way depends on besides the code, the packages and the machine."""
    return {
        "edgemm": __version__,
        "model": job.identity,
        "notes": list(job.notes),
        "recipe": [recipe.name, recipe.sha256],
        "named": [torch_steps.named(step, job.card) for step in recipe.torch_steps()],
        "data": job.fingerprint,
        "seed": job.seed,
        "skip_bad_rows": job.skip_bad_rows,
        "signer": signer,
    }
