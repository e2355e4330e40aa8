"""Everything a run made, put into one bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.bundle import packing
from edgemm.contracts.answers import Answers
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import Report
from edgemm.contracts.task import guarded_metrics
from edgemm.pipeline import compiling, thresholds
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.gates import Fitted
from edgemm.pipeline.ledger import Ledger
from edgemm.pipeline.preparing import forbidden
from edgemm.pipeline.torch_steps import Shaped
from edgemm.report import page
from edgemm.store.artifact import Artifact


def assemble(
    output: Path,
    shaped: Shaped,
    reference: Artifact | None,
    compiled: Sequence[Compiled],
    recipe: Recipe,
    report: Report,
    known: Ledger,
    gates: Fitted,
    texts: packing.Files,
    sign: Path | None,
) -> Path:
    """Write the bundle of a run, and return it.

    Args:
        output: A folder; others for what belongs to it are made beside it.
        known: What stands in for missing inputs, and what to expect then.
        gates: Branches that run only where they can change the answer.
        texts: The text tower, where it goes along.
        sign: PEM private key (ed25519).
    """
    job, exported = shaped.job, shaped.exported
    files: dict[str, Path | bytes] = {"model.onnx": exported.main, **known.files, **texts}
    for part in compiled:
        files |= _target_files(part, output.with_name(f"{part.target} companions"))
    files |= {path.name: path for path in exported.folder.glob("*.onnx.data")}
    with job.progress.stage("bundle"):
        return packing.pack(
            output,
            card=job.card,
            files=files,
            report=report,
            page=page.render,
            golden=compiling.golden(job, exported, compiled),
            provenance=_provenance(shaped, compiled, recipe),
            accuracy=_accuracy(report),
            options={part.target: _options(part, recipe) for part in compiled},
            reference=Answers.read(reference.main) if reference else None,
            subsets=known.manifest(),
            thresholds={part.target: thresholds.fitted(job, part) for part in compiled},
            gates=gates.gates,
            sign=sign,
        )


def _target_files(part: Compiled, folder: Path) -> dict[str, Path]:
    """A target's graph, its external data, and what the target wants beside it."""
    folder.mkdir(parents=True)
    beside = [*part.model.folder.glob("*.onnx.data"), *part.deployment.plugin().companions(part.model.main, folder)]
    return {f"targets/{part.target}/model.onnx": part.model.main} | {f"targets/{part.target}/{path.name}": path for path in beside}


def _options(part: Compiled, recipe: Recipe) -> packing.TargetOptions:
    """How a target is opened; that it could not run here is no option of the bundle's."""
    chosen = (part.safe, part.deployment.runtime_options)
    safe, tuned = ({key: value for key, value in options.items() if key != "stand_in"} for options in chosen)
    return packing.TargetOptions.of_deployment(part.deployment.running(tuned), safe=safe, forbid=sorted(forbidden(recipe)))


def _provenance(shaped: Shaped, compiled: Sequence[Compiled], recipe: Recipe) -> dict[str, Any]:
    versions: Mapping[str, Any] = shaped.exported.provenance["versions"]
    return {
        "edgemm": __version__,
        "recipe": {"name": recipe.name, "sha256": recipe.sha256},
        "steps": [{"step": row.step, "options": row.options} for row in shaped.applied],
        "data": shaped.job.fingerprint,
        "graph": shaped.exported.folder.name,
        "versions": dict(versions) | {name: version for part in compiled for name, version in part.model.provenance["versions"].items()},
    }


def _accuracy(report: Report) -> dict[str, Any]:
    """Per output and target: the metric of the compressed model with its interval."""
    accuracy: dict[str, Any] = {}
    metrics = guarded_metrics()
    for m in report.measurements:
        if m.subject == "bundle" and m.name in metrics and m.output and not m.modalities:
            accuracy.setdefault(m.output, {})[m.target] = {"metric": m.name, "value": m.value, "low": m.low, "high": m.high, "n": m.n}
    return accuracy
