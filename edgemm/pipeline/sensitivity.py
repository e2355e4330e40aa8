"""How much each branch bears: accuracy when that branch alone is pruned, and when it alone runs in INT8.

Pruning is by magnitude and without recovery, so that the numbers compare branches; a recipe that trains afterwards loses less. INT8 runs
on the target. Both answer the same rows of val as the original, and what is lost has a paired interval. The INT8 half is what the
accuracy guards of ``compress`` ask too: one finds in the cache what the other measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.box.measuring.predict import Predictor
from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Step
from edgemm.contracts.report import Measurement, show_interval
from edgemm.contracts.target import Target, first_here
from edgemm.errors import DataError, PruneError
from edgemm.pipeline import answers as answering
from edgemm.pipeline import stages
from edgemm.pipeline.answers import DECISION_ROWS
from edgemm.pipeline.auto_precision import normal
from edgemm.pipeline.job import Job
from edgemm.pipeline.part_quantized import Partial
from edgemm.store.artifact import Artifact, write_json

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel

RATIOS = (0.25, 0.5, 0.75)
INT8 = "INT8"
BATCH_SIZE = 64
TRAINERS = ("torch",)


@dataclass(frozen=True)
class Cell:
    """One branch treated one way, as one output feels it.

    Attributes:
        treatment: ``prune 50 %`` or ``INT8``.
        value, low, high: What is lost against the original, with its paired interval; None where nothing could be measured.
        accuracy: The output's own metric then.
        note: Why there is no number, or what a number needs to be understood.
    """

    branch: str
    treatment: str
    output: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = "points"
    accuracy: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """The whole table.

    Attributes:
        before: Output -> the original's metric on the rows used.
        split, rows: Which rows, how many.
        target: Where INT8 ran.
    """

    cells: tuple[Cell, ...]
    before: Mapping[str, float]
    metric: Mapping[str, str]
    split: str
    rows: int
    target: str
    notes: tuple[str, ...] = ()

    def find(self, branch: str, treatment: str, output: str) -> Cell | None:
        return next((c for c in self.cells if (c.branch, c.treatment, c.output) == (branch, treatment, output)), None)

    @property
    def branches(self) -> list[str]:
        return list(dict.fromkeys(cell.branch for cell in self.cells))

    @property
    def treatments(self) -> list[str]:
        return list(dict.fromkeys(cell.treatment for cell in self.cells))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def measurements(self) -> list[Measurement]:
        """The numbers as a report keeps them."""
        return [
            Measurement(
                "accuracy_drop_points", cell.value, cell.unit, candidate=cell.treatment, output=cell.output, branch=cell.branch,
                target=self.target if cell.treatment == INT8 else None, low=cell.low, high=cell.high, n=self.rows,
            )
            for cell in self.cells if cell.value is not None
        ]  # fmt: skip

    def __str__(self) -> str:
        return "\n\n".join(self._table(output) for output in self.before)

    def _table(self, output: str) -> str:
        unit = next((cell.unit for cell in self.cells if cell.output == output), "")
        before = f"{self.metric[output]} before: {self.before[output]:.4g}, {self.rows} rows of {self.split}"
        head = f"lost of '{output}' in {unit}, each branch treated alone; {before}"
        rows = [["branch", *self.treatments]]
        rows += [[branch, *(_words(self.find(branch, treatment, output)) for treatment in self.treatments)] for branch in self.branches]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *lines])


def _words(cell: Cell | None) -> str:
    if cell is None or cell.value is None:
        return "-"
    return f"{cell.value:.3g} {show_interval(cell.low, cell.high)}".strip()


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

        return list(self.job.json("parts", {"model": self.job.identity}, weighed, steps=(), targets=(), packages=TRAINERS))

    def pruned(self, branch: str, ratio: float) -> tuple[Answers | None, str]:
        """Answers with a branch pruned and a note, or None and the reason."""

        def make(scratch: Path) -> Path:
            from edgemm.contracts.step import Context

            facts: dict[str, Any] = {}
            context = Context(
                self.job.card, self.job.dataset, scratch / "scratch", teacher=self.model(), seed=self.job.seed, progress=self.job.show,
                facts=facts,
            )  # fmt: skip
            context.scratch.mkdir()
            path = scratch / "cell.json"
            try:
                smaller = plugins.function("steps", "prune")(
                    self.model(), context, branches={branch: ratio}, criterion="magnitude", round_to=1
                )
            except PruneError as err:
                write_json(path, {"note": f"{err.what} {err.why}".strip(), "pruned": False})
                return path
            if not _changed(facts):
                write_json(path, {"note": "nothing of it can be pruned alone", "pruned": False})
                return path
            self.answers(smaller).save(scratch / "answers.npz")
            write_json(path, {"note": _kept(facts, branch), "pruned": True})
            return path

        inputs = {
            "model": self.job.identity,
            "branch": branch,
            "ratio": ratio,
            "split": [self.split, DECISION_ROWS],
            "data": self.job.fingerprint,
            "skip_bad_rows": self.job.skip_bad_rows,
            "seed": self.job.seed,
        }
        artifact = self.job.stage(f"sensitivity {branch} {ratio:g}", inputs, make, steps=["prune"], targets=(), packages=TRAINERS)
        cell = json.loads(artifact.main.read_text(encoding="utf-8"))
        if not cell["pruned"]:
            return None, cell["note"]
        return Answers.read(artifact.sibling("answers.npz")), cell["note"]

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
    quantized = stages.quantize(job, exported, [normal(Step("quantize", {}, "graph"))], name)
    plugin = plugins.load(Target, name)
    if plugin.cannot_run():
        notes.append(f"{name}: {plugin.cannot_run()} INT8 was computed by ONNX Runtime on its graph.")
    with Predictor() as predictor:
        deployment = Deployment(name, quantized.main, runtime_options=plugin.choices(forbid=frozenset())[0])
        partial = Partial(job, exported, quantized, deployment, (job, exported), predictor)
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
