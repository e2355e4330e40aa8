"""`edgemm quantize`: apply a recipe's graph steps, for each target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemm.contracts.recipe import load as load_recipe
from edgemm.pipeline import stages
from edgemm.pipeline.job import start
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import require_writable


def quantize(
    onnx: str | Path,
    *,
    recipe: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``<output>/<target>/model.onnx`` for every target of the recipe.

    Args:
        onnx: An ONNX file; a ``model.yaml`` beside it that names it is its card, else one is drafted.
        recipe: A recipe file, or the name of a shipped one (see ``edgemm list recipes``).
        output: Folder for a folder for each target.
        data: Calibration samples; without it, seeded synthetic ones.

    Returns:
        The files written, in the recipe's order of targets.

    Raises:
        QuantizeError: The graph cannot be quantized, or too few samples.
        RecipeError: The recipe is wrong or asks for torch steps.
    """
    output = Path(output)
    require_writable(output)
    job = start(onnx, data, progress=progress)
    chosen = load_recipe(recipe, card=job.card)
    exported = stages.export(job)
    written = []
    for name in chosen.targets:
        artifact = stages.quantize(job, exported, chosen.graph_steps(), name)
        for note in stages.notes_of(artifact):
            job.progress.note(f"{name}: {note}")
        stages.lay_out(output / name, {path.name: path for path in stages.files_of(artifact)}, card=job.card.as_onnx("model.onnx"))
        written.append(output / name / "model.onnx")
    return written


def ending(graphs: list[Path], **_: Any) -> Ending:
    """What the command line says at the end."""
    folder = graphs[0].parent
    return Ending(written=graphs, next=f"edgemm compile {graphs[0]} --target {folder.name} -o {folder}/compiled")
