"""How much each branch bears: accuracy when that branch alone is pruned, and when it alone runs in INT8.

Pruning is by magnitude and without recovery, so that the numbers compare branches; a recipe that trains afterwards loses less. INT8 runs
on the target. Both answer the same rows of val as the original, and what is lost has a paired interval. The INT8 half is what the
accuracy guards of ``compress`` ask too: one finds in the cache what the other measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Step
from edgemm.contracts.report import Measurement
from edgemm.contracts.sensitivity import Cell, Sensitivity
from edgemm.contracts.target import Target, first_here
from edgemm.errors import DataError, PruneError
from edgemm.pipeline import answers as answering
from edgemm.pipeline import stages
from edgemm.pipeline.answers import DECISION_ROWS
from edgemm.pipeline.auto_precision import normal
from edgemm.pipeline.job import Job
from edgemm.pipeline.part_quantized import Partial
from edgemm.store.artifact import Artifact

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel

RATIOS = (0.25, 0.5, 0.75)
INT8 = "INT8"
BATCH_SIZE = 64
TRAINERS = ("torch",)
NOTE = "note:"
"""Beside the arrays of a pruned branch's answers: no output is called so."""


def sensitivity(job: Job, *, target: str | None = None) -> Sensitivity:
    """Treat each branch alone and see what every output loses.

    Args:
        target: Where INT8 runs; None = OpenVINO, else ONNX Runtime.

    Raises:
        DataError: There is no data, or no rows to decide on.
    """
    if job.data is None:
        raise DataError("sensitivity needs a dataset.", why="it is accuracy that branches are sensitive in.", fix="add -d DATA.")
    split, note = answering.decision_split(job.dataset)
    if not split:
        raise DataError("sensitivity needs rows of val or train.", why=note, fix="add rows with split 'val'.")
    exported = stages.export(job)
    before = answering.original_answers(job, exported, split, limit=DECISION_ROWS)
    scored = {str(m.output): m for m in answering.scored(job, before)}
    names = list(scored)
    notes = [note] if note else []
    cells = _pruned(job, split, before, notes)
    name, int8 = _quantized(job, exported, names, target, notes)
    rows = len(next(iter(before.predictions.values())))
    return Sensitivity(
        tuple(cells + int8), {n: scored[n].value for n in names}, {n: scored[n].name for n in names}, split, rows, name, tuple(notes)
    )


def measurements(study: Sensitivity) -> list[Measurement]:
    """The numbers as a report keeps them."""
    return [
        Measurement(
            "accuracy_drop_points", cell.value, cell.unit, candidate=cell.treatment, output=cell.output, branch=cell.branch,
            target=study.target if cell.treatment == INT8 else None, low=cell.low, high=cell.high, n=study.rows,
        )
        for cell in study.cells if cell.value is not None
    ]  # fmt: skip


def _pruned(job: Job, split: str, before: Answers, notes: list[str]) -> list[Cell]:
    """Every branch at every ratio."""
    if job.card.factory is None:
        notes.append("Pruning was left out: it needs a PyTorch model that can be built.")
        return []
    whole = _Whole(job, split)
    cells = []
    for branch in whole.branches():
        for ratio in RATIOS:
            after, note = whole.pruned(branch, ratio)
            cells += _cells(job, branch, f"prune {100 * ratio:.0f} %", before, after, note)
    return cells


def _cells(job: Job, branch: str, treatment: str, before: Answers, after: Answers | None, note: str) -> list[Cell]:
    if after is None:
        names = tasks.scored_outputs(job.card)
        return [Cell(branch, treatment, name, note=note) for name in names]
    after = Answers(after.predictions, before.truth)
    lost, scored = answering.lost(job, before, after), {m.output: m.value for m in answering.scored(job, after)}
    return [Cell(branch, treatment, name, m.value, m.low, m.high, m.unit, scored.get(name), note) for name, m in lost.items()]


class _Whole:
    """The model before pruning, loaded when a cell is not in the cache."""

    def __init__(self, job: Job, split: str) -> None:
        self.job, self.split = job, split
        self._model: FusedModel | None = None

    def branches(self) -> list[str]:
        """Branches with something that may be pruned."""

        def weighed() -> list[str]:
            from edgemm.workshop.models.torch_branches import find_parts

            parts = find_parts(self.model())
            with_weights = set(parts.of_parameter.values())
            return [branch for branch in dict.fromkeys(parts.of_node.values()) if branch in with_weights]

        facts = {"model": self.job.identity}
        return self.job.value(list[str], "parts", facts, weighed, steps=(), targets=(), packages=TRAINERS)

    def pruned(self, branch: str, ratio: float) -> tuple[Answers | None, str]:
        """Answers with a branch pruned and a note, or None and the reason."""
        step = plugins.saying("steps", "PRUNES")[0]

        def answered() -> Arrays:
            from edgemm.contracts.step import Context

            told: dict[str, Any] = {}
            with tempfile.TemporaryDirectory(prefix="edgemm-") as aside:
                context = Context(
                    self.job.card, self.job.dataset, Path(aside), teacher=self.model(), seed=self.job.seed, progress=self.job.show,
                    facts=told,
                )  # fmt: skip
                try:
                    smaller = plugins.function("steps", step)(
                        self.model(), context, branches={branch: ratio}, criterion="magnitude", round_to=1
                    )
                except PruneError as err:
                    return {NOTE: np.array(f"{err.what} {err.why}".strip())}
            if not _changed(told):
                return {NOTE: np.array("nothing of it can be pruned alone")}
            return {NOTE: np.array(_kept(told, branch)), **self.answers(smaller).arrays()}

        facts = {
            "model": self.job.identity,
            "branch": branch,
            "ratio": ratio,
            "split": [self.split, DECISION_ROWS],
            "data": self.job.fingerprint,
            "skip_bad_rows": self.job.skip_bad_rows,
            "seed": self.job.seed,
        }
        name = f"sensitivity {branch} {ratio:g}"
        flat = dict(self.job.arrays(name, facts, answered, steps=[step], targets=(), packages=TRAINERS))
        note = str(flat.pop(NOTE))
        return Answers.of_arrays(flat) if flat else None, note

    def model(self) -> FusedModel:
        from edgemm.workshop.models.checkpoint.loading import load_model

        if self._model is None:
            self._model = load_model(self.job.card)
        return self._model

    def answers(self, model: FusedModel) -> Answers:
        from edgemm.workshop.models import values as _values

        parts: dict[str, list[np.ndarray]] = {}
        for batch in self.job.dataset.batches(self.split, BATCH_SIZE, limit=DECISION_ROWS):
            for name, value in _values.outputs(model, batch.inputs).items():
                parts.setdefault(name, []).append(value)
        return Answers({name: np.concatenate(values) for name, values in parts.items()})


def _changed(facts: Mapping[str, Any]) -> bool:
    """Whether the step removed anything."""
    return any(row["parameters"][0] != row["parameters"][1] for row in (facts.get("branches") or {}).values())


def _kept(facts: Mapping[str, Any], branch: str) -> str:
    """How many of a branch's multiply-accumulates are left, as the step counted them."""
    macs = ((facts.get("branches") or {}).get(branch) or {}).get("macs")
    return f"{100 * macs[1] / macs[0]:.0f} % of its multiply-accumulates are left" if macs and macs[0] else ""


def _quantized(job: Job, exported: Artifact, names: Sequence[str], target: str | None, notes: list[str]) -> tuple[str, list[Cell]]:
    """Where INT8 ran, and every branch alone in INT8 there."""
    name = _target(target)
    step = Step(plugins.saying("steps", "QUANTIZES")[0], {}, "graph")
    quantized = stages.quantize(job, exported, [normal(step)], name)
    notes += stages.notes_of(quantized)
    plugin = plugins.load(Target, name)
    if plugin.cannot_run():
        notes.append(f"{name}: {plugin.cannot_run()} INT8 was computed by ONNX Runtime on its graph.")
    with job.predictor:
        deployment = Deployment(name, quantized.main, runtime_options=plugin.choices(forbid=frozenset())[0])
        partial = Partial(job, exported, quantized, deployment, (job, exported))
        by_branch = {alone.branch: alone for alone in partial.alone()}
    cells = []
    for branch in partial.layers:
        for output in names:
            lost = by_branch[branch].lost.get(output)
            if lost is not None:
                note = f"noise {by_branch[branch].noise_db:.0f} dB below the signal"
                cells.append(Cell(branch, INT8, output, lost.value, lost.low, lost.high, lost.unit, None, note))
    return name, cells


def _target(target: str | None) -> str:
    if target is not None:
        plugins.load(Target, target)
        return target
    return first_here("sensitivity to INT8")[0]
