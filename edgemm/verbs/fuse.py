"""`edgemm fuse`: join models that were trained apart into one card, each member calibrated, with a joint for every subset of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm.box.devices import threads
from edgemm.box.devices.environment import environment
from edgemm.contracts import task as tasks
from edgemm.contracts.joint import ALONE, subset_name, subsets
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report_parts import Calibration, Details
from edgemm.data import calibration
from edgemm.data.checking import check
from edgemm.data.dataset import open_dataset
from edgemm.errors import OutputError
from edgemm.pipeline.job import Job
from edgemm.pipeline.late_fusion import fitting, fusing
from edgemm.pipeline.late_fusion import labels as joint_labels
from edgemm.pipeline.late_fusion import members as joint_members
from edgemm.pipeline.late_fusion.choosing import Tried
from edgemm.pipeline.late_fusion.enough_rows import require_rows
from edgemm.pipeline.late_fusion.fitting import Rows
from edgemm.pipeline.late_fusion.fusing import Whole
from edgemm.pipeline.late_fusion.members import Composed
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.report.terminal import Ending
from edgemm.store.artifact import folder_in_one_step, require_writable

WRITTEN = ("model.yaml", "weights.safetensors", fusing.FUSED, f"{fusing.FUSED}.data", "report.json", "report.html")
AS_IT_COMES = "as it comes"


@dataclass(frozen=True)
class Fused:
    """What ``fuse`` wrote.

    Attributes:
        folder: Holds model.yaml, its model, report.html and report.json.
        report: Each member alone and the joints on the test rows, with the calibration of each.
        tried: Head -> what was tried for each subset.
        notes: What the user should know.
    """

    folder: Path
    report: Report
    tried: Mapping[str, Sequence[Tried]]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def card(self) -> Path:
        return self.folder / "model.yaml"

    def to_dict(self) -> dict[str, Any]:
        tried = {head: [vars(one) for one in rows] for head, rows in self.tried.items()}
        return {"folder": str(self.folder), "tried": tried, "notes": list(self.notes), "report": self.report.to_dict()}

    def __str__(self) -> str:
        """A line for each member and each joint: its metric on test with its interval, and how well it is calibrated."""
        known = {(row.output, row.form): row for row in self.report.details.calibration}
        lines = []
        for m in self.report.measurements:
            interval = "" if m.low is None or m.high is None else f" [{m.low:.4f}, {m.high:.4f}]"
            now, before = known.get((m.output or "", m.candidate)), known.get((m.output or "", f"{m.candidate}, {AS_IT_COMES}"))
            ece = "" if now is None else f", ECE {now.known.ece:.3f}" + (f" ({before.known.ece:.3f} {AS_IT_COMES})" if before else "")
            rule = f" ({now.rule})" if now and now.rule not in ("", ALONE) else ""
            lines.append(f"{m.output}: {m.candidate}{rule}: {m.name} {m.value:.4f}{interval}{ece}")
        return "\n".join(lines)


def fuse(
    members: Sequence[str],
    *,
    heads: Sequence[str],
    data: str | Path,
    output: str | Path,
    labels: Sequence[str] = (),
    rules: Sequence[str] = (),
    seed: int = 0,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Fused:
    """Join models that were trained apart.

    Each member is calibrated on val, and every subset of a head's members is joined by what answers val best under cross-validation:
    the average of log-odds, noisy-or, logistic stacking or a small gate. What comes out is a card as any other: a torch model where all
    members are (so that it can be pruned and trained on), else an ONNX file.

    Args:
        members: NAME=MODEL each: an ``.onnx`` file with a card beside it, a model.yaml or its folder, a shipped card's name, a bundle
            (its float graph), or a Hugging Face folder.
        heads: 'HEAD: MEMBER.OUTPUT, MEMBER.OUTPUT', such as 'event: yard.class, sound.event'; HEAD is a column of the data. May be
            repeated.
        data: The dataset: val decides, test is reported.
        output: Folder for the card and its model; an earlier fusion there is replaced.
        labels: 'LABEL: OTHER, MEMBER.OTHER': what members call a label of the head. May be repeated.
        rules: 'HEAD: RULE' instead of what wins: average, noisy_or, stacking, gate, max or vote; or a weight a member: 'HEAD: 0.7, 0.3'.
            May be repeated.
        seed: Of the folds of cross-validation, and of synthetic samples.
        skip_bad_rows: Leave out rows that cannot be read instead of stopping.

    Raises:
        CardError: Members that are no models, heads that cannot be, labels that cannot be joined (says which). Mistakes: several.
        DataError: The data lack a column, a member's inputs or enough rows of val.
        OutputError: ``output`` holds what no fusion wrote.
        ExportError, ParityError, CheckpointError: A member cannot be exported.
    """
    folder, progress = Path(output), progress or Progress()
    _require_own(folder)
    threads.wait_passively()  # before what follows imports torch
    notes: list[str] = []
    opened = joint_members.open_members(members, notes.append)
    asked = joint_members.parse_heads(heads, rules, opened)
    composed = joint_members.compose(opened, asked, joint_labels.parse_table(labels), folder / "model.yaml")
    composed.notes[:0] = notes
    dataset = open_dataset(data, composed.card, skip_bad_rows=skip_bad_rows)
    require_rows(dataset, composed)
    check(dataset, note=progress.note)
    job = Job(composed.card, str(data), dataset, progress, seed, skip_bad_rows)
    laid = fusing.members_graph(job, composed)
    whole = fusing.fit(job, composed, laid)
    test = fusing.rows_of(job, composed, laid, "test") if "test" in dataset.splits() else {}
    report = _report(job, whole, composed, test)
    widths = {name: one.parameters["scale"].shape[-1] for name, one in whole.fitted.items()}
    with folder_in_one_step(folder) as scratch:
        fusing.write(whole, composed, widths, scratch, folder)
        page.write(report, scratch)
    for note in composed.notes:
        progress.note(f"note: {note}")
    return Fused(folder, report, {name: one.tried for name, one in whole.fitted.items()}, composed.notes)


def ending(fused: Fused, *, data: str | Path, **_: Any) -> Ending:
    """What the command line says at the end."""
    recipe = "openvino-int8" if (fused.folder / "weights.safetensors").is_file() else "onnx-only"
    command = f"edgemm compress {fused.card} -r {recipe} -d {data} -o build/{fused.folder.name}"
    return Ending(fused, (fused.folder,), command)


def _require_own(folder: Path) -> None:
    """Refuse to replace what no fusion wrote.

    Raises:
        OutputError: Not a folder, not writable, or holding something else.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", fix="choose another place with -o.")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in names if name not in WRITTEN and not name.endswith(("tokenizer.json", ".prune.json")))
    if foreign or (names and "report.json" not in names):
        raise OutputError(
            f"{folder} holds '{(foreign or sorted(names))[0]}', which no fusion wrote.",
            why="the folder is replaced as a whole.",
            fix="choose an empty or new folder with -o.",
        )
    require_writable(folder)


def _report(job: Job, whole: Whole, composed: Composed, test: Mapping[str, Rows]) -> Report:
    measurements: list[Measurement] = []
    known: list[Calibration] = []
    for name, rows in test.items():
        one, task = whole.fitted[name], tasks.of(whole.card.outputs[name])
        for subset in subsets(list(one.head.members)):
            answers = fitting.answer(one.head, rows, one.parameters, hearing=subset)
            form, rule = subset_name(subset), one.head.rules[subset_name(subset)]
            if task.is_scored and rows.truth is not None:
                score = task.measure({name: answers}, rows.truth).score()
                measurements.append(
                    Measurement(
                        score.name, score.value, score.unit, score.better, "original", form, output=name, low=score.low, high=score.high,
                        n=score.n,
                    )
                )  # fmt: skip
            if rows.task not in ("classification", "multilabel") or rows.truth is None:
                continue
            if len(subset) == 1:
                raw = calibration.reliability(rows.task, fusing.heard_alone(one.head, rows, subset[0]), rows.truth)
                known.append(Calibration(name, f"{form}, {AS_IT_COMES}", raw))
            known.append(Calibration(name, form, calibration.reliability(rows.task, answers, rows.truth), rule))
    notes = [*composed.notes, *(_words(name, row, one.tried) for name, one in whole.fitted.items() for row in one.tried if row.taken)]
    details = Details(title=f"{whole.card.folder.name}, fused of {', '.join(composed.members)}", notes=notes, calibration=known)
    return Report(environment({}), measurements, details=details)


def _words(head: str, taken: Tried, tried: Sequence[Tried]) -> str:
    """Why a subset has its rule."""
    rest = [row for row in tried if row.subset == taken.subset and row.rule != taken.rule]
    others = ", ".join(f"{row.rule} {row.loss:.4f}{f': {row.note}' if row.note else ''}" for row in rest)
    return f"{head}, {taken.subset}: {taken.rule}, {taken.loss:.4f} a row of val under cross-validation" + (
        f" ({others})." if others else "."
    )
