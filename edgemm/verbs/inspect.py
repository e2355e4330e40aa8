"""`edgemm inspect`: show what each branch of a model costs, and what it bears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.devices import boards
from edgemm.box.devices.environment import environment
from edgemm.box.devices.estimate import Estimate, estimate
from edgemm.contracts import plugins
from edgemm.contracts.card import Card, Output
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.modality import input_specs
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import BranchSummary, Details
from edgemm.contracts.sensitivity import Sensitivity
from edgemm.contracts.specs import TensorSpec
from edgemm.contracts.target import Target, first_here
from edgemm.data.dataset import open_dataset, synthetic
from edgemm.data.oddities import oddities
from edgemm.errors import DataError, EdgemmError, MissingExtra
from edgemm.pipeline import memory, stages
from edgemm.pipeline.job import Job, samples, start
from edgemm.pipeline.per_branch import BranchRow, take_apart
from edgemm.pipeline.sensitivity import measurements
from edgemm.pipeline.sensitivity import sensitivity as measure_sensitivity
from edgemm.progress import Progress
from edgemm.report.terminal import Ending
from edgemm.store.artifact import require_writable

MIB = 2**20


@dataclass(frozen=True)
class Inspection:
    """What a model is made of.

    Attributes:
        model: As the user named it.
        inputs: What its graph takes.
        outputs: Output -> task, and its labels or unit, in words.
        rows: A row for each branch, and before an input's one for its front-end.
        target: What timed the layers; "" where nothing could.
        notes: What a reader must know.
        data: What is odd about the dataset, a sentence each, where one was given.
        sensitivity: What each branch bears, where that was asked for.
        estimate: How long it may take on another board, where that was asked for.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: Mapping[str, str]
    rows: tuple[BranchRow, ...]
    target: str = ""
    notes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    estimate: Estimate | None = None

    @property
    def total(self) -> BranchRow:
        """All branches together."""
        sizes = {key: sum(row.size_bytes[key] for row in self.rows) for key in self.rows[0].size_bytes}
        counts = {key: sum(getattr(row, key) for row in self.rows) for key in ("parameters", "macs", "nodes", "stored_bytes")}
        share = None if any(row.latency_share is None for row in self.rows) else 1.0
        return BranchRow("total", None, size_bytes=sizes, latency_share=share, **counts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": dict(self.outputs),
            "branches": [asdict(row) for row in self.rows],
            "total": asdict(self.total),
            "target": self.target,
            "notes": list(self.notes),
            "data": list(self.data),
            "compress_peak_gib": memory.peaks_gib(self.total.size_bytes["fp32"]),
            **({"sensitivity": asdict(self.sensitivity)} if self.sensitivity else {}),
            **({"estimate": self.estimate.to_dict()} if self.estimate else {}),
        }

    def __str__(self) -> str:
        lines = [f"input   {spec.name}: {spec}" for spec in self.inputs]
        lines += [f"output  {name}: {words}" for name, words in self.outputs.items()]
        head = ["branch", "modality", "parameters", "MACs", "time", "ran in", "fp32 MiB", "fp16 MiB", "int8 MiB", "stored MiB"]
        section_lines = [line for part in (self.sensitivity, self.estimate) if part for line in ("", str(part))]
        table = _aligned([head, *map(_cells, (*self.rows, self.total))])
        data = [f"data: {oddity}" for oddity in self.data]
        return "\n".join([*lines, "", *table, *section_lines, *data, *(f"note: {note}" for note in self.notes)])


def inspect(
    model: str | Path,
    *,
    data: str | Path | None = None,
    target: str | None = None,
    sensitivity: bool = False,
    device: str | None = None,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Take a model apart.

    Args:
        model: A card, a folder with ``model.yaml``, an ``.onnx`` file, or a bundle (whose compressed graph is looked at).
        data: Its first sample is what the layers are timed on; without it a synthetic one (a bundle brings its own). Also told is what is
            odd about it: channels that are constant, far out or equal to another, rows there twice or in several splits, inputs that tell
            a label alone, columns that nothing reads, labels without rows.
        target: Where the layers are timed; without it the bundle's own, else OpenVINO or ONNX Runtime, whichever is here.
        sensitivity: Also measure what each branch bears: pruned alone, and in INT8 alone. Needs a card (or an ONNX file) and data.
        device: A board that is not here, such as ``orin-nano-8gb-super``: also estimate how long each branch takes there.
        output: Folder for report.json and report.html.

    Raises:
        EdgemmError: The model cannot be read, ``target`` is none of the bundle's, or a bundle's sensitivity is asked for; an unknown board.
        DataError: ``sensitivity`` without data.
    """
    folder = Path(output) if output else None
    if folder:
        require_writable(folder / "report.json")
    board = boards.load(device) if device else None
    path = Path(model)
    if path.suffix == ".edgemm" or (path / "manifest.json").is_file():
        if sensitivity:
            why = "a bundle holds what compression left, not what could be pruned or quantized."
            raise EdgemmError("sensitivity is measured on a card.", why=why, fix="give the card that the bundle was made from.")
        inspection = _bundle(path, target, data)
        if data is not None:
            inspection = replace(inspection, data=tuple(oddities(open_dataset(data, open_bundle(path).card, skip_bad_rows=True))))
    else:
        inspection = _model(model, data, target, sensitivity, progress)
    if board:
        inspection = replace(inspection, estimate=_estimate(model, board))
    if folder:
        _write(inspection, folder)
    return inspection


def ending(inspection: Inspection, *, output: str | None = None, **_: Any) -> Ending:
    """What the command line says at the end."""
    return Ending(inspection, (Path(output),) if output else ())


def _model(model: str | Path, data: str | Path | None, target: str | None, sensitivity: bool, progress: Progress | None) -> Inspection:
    # what cannot be read is one more thing that is odd; accuracy stops at it
    job = start(model, data, skip_bad_rows=not sensitivity, progress=progress)
    if sensitivity and data is None:
        raise DataError("sensitivity needs a dataset.", why="it is accuracy that branches are sensitive in.", fix="add -d DATA.")
    inspection = _looked_at(job, str(model), target, ["the layers were timed on a synthetic sample."] if data is None else [])
    if words := memory.told(inspection.total.size_bytes["fp32"]):
        inspection = replace(inspection, notes=(*inspection.notes, words))
    if data is not None:
        inspection = replace(inspection, data=tuple(oddities(open_dataset(data, job.card, skip_bad_rows=True))))
    if not sensitivity:
        return inspection
    branch_sensitivity = measure_sensitivity(job, target=target)
    return replace(inspection, sensitivity=branch_sensitivity, notes=(*inspection.notes, *branch_sensitivity.notes))


def _estimate(model: str | Path, board: boards.Board) -> Estimate:
    """On the float graph, whose layers INT8 or fp16 would run; a bundle's is the one that was pruned."""
    from edgemm.graph.layer_work import layers

    path = Path(model)
    if path.suffix == ".edgemm" or (path / "manifest.json").is_file():
        bundle = open_bundle(path)
        return estimate(layers(bundle.model, bundle.card), board)
    job = start(model, None)
    return estimate(layers(stages.export(job).main, job.card), board)


def _looked_at(job: Job, model: str, target: str | None, notes: list[str]) -> Inspection:
    onnx, feed = stages.export(job).main, samples(job, 1)[0]
    notes = [*job.notes, *notes]
    try:
        name = target or first_here("timing layers")[0]
    except MissingExtra as err:
        return _Looked(onnx, job.card).inspection(model, {}, [f"{err.why.rstrip('.')}: nothing was timed."])
    return _Looked(onnx, job.card, Deployment(name, onnx)).inspection(model, feed, notes)


def _bundle(path: Path, target: str | None, data: str | Path | None) -> Inspection:
    bundle = open_bundle(path)
    if target:
        bundle.require(target)
    names, notes = [target] if target else bundle.targets(), list[str]()
    graph = bundle.target_model(names[-1]) if names else bundle.model
    for name in names:
        try:
            deployment, reason = bundle.deployment_here(name)
            why = deployment.plugin().cannot_run()
        except MissingExtra as err:
            why = f"{err.what} {err.fix}"
        if why:
            notes.append(f"{name} cannot run here: {why}")
            continue
        notes += [f"opened with safe options: {reason}"] if reason else []
        looked = _Looked(deployment.model, bundle.card, deployment)
        return looked.inspection(str(path), _sample(bundle, data), notes)
    notes.append("nothing was timed.")
    return _Looked(graph, bundle.card).inspection(str(path), {}, notes)


def _sample(bundle: Bundle, data: str | Path | None) -> dict[str, np.ndarray]:
    """One sample for a bundle's graph: the dataset's first, else the first golden one, else a synthetic one."""
    samples = bundle.golden()
    if data is None and samples is not None:
        return samples.sample(0)
    dataset = open_dataset(data, bundle.card) if data is not None else synthetic(bundle.card)
    split = next(name for name in ("test", "val", "train") if name in dataset.splits())
    return next(iter(dataset.batches(split, 1, limit=1))).inputs


@dataclass(frozen=True)
class _Looked:
    """An ONNX file, and where its layers are timed."""

    onnx: Path
    card: Card
    timed: Deployment | None = None

    def inspection(self, given: str, feed: Mapping[str, np.ndarray], notes: Sequence[str]) -> Inspection:
        if self.timed is None:
            rows = take_apart(self.onnx, self.card)
        else:
            with self.timed.open(**self.timed.plugin().profile_options()) as session:
                rows = take_apart(self.onnx, self.card, session, feed)
        outputs = {name: _words(output) for name, output in self.card.outputs.items()}
        return Inspection(given, tuple(input_specs(self.card)), outputs, tuple(rows), self.timed.target if self.timed else "", tuple(notes))


def _write(inspection: Inspection, folder: Path) -> None:
    """``report.json`` and ``report.html`` of an inspection."""
    from edgemm.report import page

    versions = plugins.find(Target, inspection.target)().versions() if inspection.target else {}
    rows = [
        BranchSummary(
            row.branch, row.precision, row.parameters, row.macs, row.latency_share,
            {key: size / MIB for key, size in row.size_bytes.items()},
        )
        for row in inspection.rows
    ]  # fmt: skip
    sensitivity = inspection.sensitivity
    path = Path(inspection.model)
    details = Details(
        title=path.resolve().parent.name if path.name == "model.yaml" else path.name,
        branches=rows,
        notes=[*(f"Data: {oddity}" for oddity in inspection.data), *inspection.notes],
        sensitivity=sensitivity,
        estimate=inspection.estimate.to_dict() if inspection.estimate else {},
    )
    page.write(Report(environment(versions), measurements(sensitivity) if sensitivity else [], details=details), folder)


def _words(output: Output) -> str:
    about = f" of {', '.join(output.labels)}" if output.labels else f" in {output.unit}" if output.unit else ""
    return f"{output.task}{about}{', for each step' if output.per_step else ''}"


def _cells(row: BranchRow) -> list[str]:
    share = "" if row.latency_share is None else f"{100 * row.latency_share:.1f} %"
    sizes = [f"{size / MIB:.3f}" for size in (*row.size_bytes.values(), row.stored_bytes)]
    return [row.branch, row.modality or "", f"{row.parameters:,}", f"{row.macs:,}", share, row.precision, *sizes]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width; numbers to the right. Empty columns are left out."""
    kept = [column for column in range(len(table[0])) if any(row[column] for row in table[1:])]
    widths = {column: max(len(row[column]) for row in table) for column in kept}
    words = ("branch", "modality", "ran in")
    return [
        "  ".join(
            row[column].ljust(widths[column]) if table[0][column] in words else row[column].rjust(widths[column]) for column in kept
        ).rstrip()
        for row in table
    ]
