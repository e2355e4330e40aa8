"""`edgemm compress`: the whole way from a checkpoint to a verified, measured bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemm import bundle, stages
from edgemm.progress import Progress
from edgemm.recipe import load as load_recipe
from edgemm.report import Report


@dataclass(frozen=True)
class Compressed:
    """What a run left.

    Attributes:
        bundle: Where the bundle is.
        report: Its report; ``report.missed`` names budgets that were missed.
        made, reused: Stages that ran, and stages found finished in the cache.
    """

    bundle: Path
    report: Report
    made: tuple[str, ...]
    reused: tuple[str, ...]


def compress(
    card: str | Path,
    *,
    recipe: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    sign: Path | None = None,
    seed: int = 0,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Compress a model by a recipe, prove it, measure it, and pack it.

    Finished stages are found again by what they depend on: a killed run goes on where it was, and a second run of the same command
    only packs.

    Args:
        card: A card, a folder with ``model.yaml``, or an ``.onnx`` file (a card is drafted for one without).
        recipe: A path or the name of a shipped recipe.
        output: The bundle: a folder, or a file ending in ``.edgemm``.
        data: The dataset; may be left out for an ``.onnx`` file, which is then calibrated on synthetic samples, and the report says so.
        sign: PEM private key (ed25519).
        seed: Of the calibration choice and of synthetic samples.
        skip_bad_rows: Leave out rows that cannot be read instead of stopping; the report counts them.

    Raises:
        EdgemmError: Anything a user can mend, before work starts where it can be known.
    """
    output = Path(output)
    bundle.check_place(output)
    job = stages.start(card, data, seed=seed, skip_bad_rows=skip_bad_rows, progress=progress)
    plan = load_recipe(recipe, card=job.card)

    exported = stages.export(job, opset=stages.opset(plan))
    reference = stages.reference(job, exported) if data is not None else None
    compiled = [stages.compile_for(job, exported, plan, name) for name in plan.targets]
    report = stages.benchmark(job, exported, reference, compiled, plan)

    stages.pack(job, output, exported, reference, compiled, plan, report, sign=sign)
    return Compressed(output, report, tuple(job.made), tuple(job.reused))
