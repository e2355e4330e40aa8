"""Pictures for the report: of the test rows those that compression harmed, that are answered worst, and usual ones."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.dataset import Batch
from edgemm.contracts.decision import Mask, Observation
from edgemm.contracts.modality import Modality
from edgemm.contracts.picture_parts import Panel, SamplePicture, Shape
from edgemm.contracts.task import Task
from edgemm.pipeline.job import Job

LOOKED_AT = 300  # test rows, the first: enough to find bad ones, and each is decoded once
OF_A_KIND = 3
LEAST_HARM = 0.02  # of quality: what rounding does to every picture is none
WIDTH = 240  # pixels a picture is shown with
SURE = 0.3  # score from which a point is drawn
DIGITS = 4
TINT = 0.5  # of a mask's colour over the picture
COLOURS = ((47, 86, 208), (230, 120, 30), (20, 150, 90), (150, 70, 190), (200, 160, 20), (20, 180, 190), (220, 70, 130), (110, 120, 130))


@dataclass(frozen=True)
class _Form:
    """One form's answers to the rows that are looked at, and from which score on each label counts."""

    title: str
    answers: Arrays
    qualities: np.ndarray
    thresholds: Mapping[str, float]


def pictures(job: Job, truth: Arrays, forms: Mapping[str, Answers]) -> dict[str, list[SamplePicture]]:
    """Output -> its pictures, of outputs that say places in one.

    Args:
        truth: Of the test split.
        forms: Title -> answers to the test split; the last is the compressed model, the first the original, if it is another.
    """
    having = {name: task for name, task in tasks.tasks(job.card).items() if name in truth}
    chosen = {name: (task, *found) for name, task in having.items() if (found := _chosen(task, truth[name], forms))}
    wanted = {row for _, _, rows in chosen.values() for row in rows}
    rows = dict(_decoded(job, wanted))
    return {
        name: [_drawn(job, task, rows[row], row, why, of_task, truth[name][row]) for row, why in picked.items()]
        for name, (task, of_task, picked) in chosen.items()
    }


def _chosen(task: Task, truth: np.ndarray, forms: Mapping[str, Answers]) -> tuple[list[_Form], dict[int, str]] | None:
    """The forms' answers, and the rows to show -> what for; None of a task without places in a picture."""
    seen, found = truth[:LOOKED_AT], list[_Form]()
    for title, answered in forms.items():
        if any(read not in answered.predictions for read in task.reads):
            continue
        own = {read: answered.predictions[read][:LOOKED_AT] for read in task.reads}
        qualities = task.qualities(own, seen)
        if qualities is None:
            return None
        fitted = task.thresholds(own, seen) if task.has_thresholds else {}
        found.append(_Form(title, own, qualities, fitted))
    return (found, _picked([form.qualities for form in found])) if found else None


def _picked(qualities: Sequence[np.ndarray]) -> dict[int, str]:
    """Rows -> why they are shown: harmed most by compression, worst, and about the middle; each once."""
    after = qualities[-1]
    rows: dict[int, str] = {}
    if len(qualities) > 1:
        harm = qualities[0] - after
        rows |= {int(row): "lost most" for row in np.argsort(-harm, kind="stable")[:OF_A_KIND] if harm[row] > LEAST_HARM}
    for why, order in (("worst", np.argsort(after, kind="stable")), ("usual", np.argsort(np.abs(after - np.median(after)), kind="stable"))):
        rows |= {int(row): why for row in [row for row in order if row not in rows][:OF_A_KIND]}
    return rows


def _decoded(job: Job, wanted: set[int]) -> Iterator[tuple[int, Batch]]:
    for number, batch in enumerate(job.dataset.batches("test", 1, limit=max(wanted, default=-1) + 1) if wanted else ()):
        if number in wanted:
            yield number, batch


def _drawn(job: Job, task: Task, batch: Batch, row: int, why: str, forms: Sequence[_Form], truth: np.ndarray) -> SamplePicture:
    frame = str(job.card.outputs[task.name].options["frame"])
    modality = job.dataset.parts[frame]
    picture = modality.picture(batch.inputs[frame][0])
    assert picture is not None  # a task with places in a picture has one
    height, width = picture.shape[:2]
    panels = [_panel("there", None, task.there(truth), {}, picture, modality, is_truth=True)]
    for form in forms:
        seen = task.read({name: answer[row : row + 1] for name, answer in form.answers.items()}) or Observation()
        panels.append(_panel(form.title, round(float(form.qualities[row]), DIGITS), seen, form.thresholds, picture, modality))
    if panels[0].jpeg == panels[-1].jpeg:
        panels = [panels[0], *(replace(panel, jpeg="") for panel in panels[1:])]
    return SamplePicture(int(batch.rows[0]), why, width, height, panels)


def _panel(
    title: str,
    quality: float | None,
    seen: Observation,
    thresholds: Mapping[str, float],
    picture: np.ndarray,
    modality: Modality,
    *,
    is_truth: bool = False,
) -> Panel:
    painted = picture if seen.mask is None else _tinted(picture, seen.mask)
    jpeg = base64.b64encode(modality.jpeg(painted, WIDTH)).decode()
    shapes = [
        replace(shape, score=None) if is_truth else shape
        for shape in _shapes(seen, picture.shape[:2])
        if is_truth or (shape.score or 0.0) >= thresholds.get(shape.label, 0.0)
    ]
    return Panel(title, quality, jpeg, shapes)


def _shapes(seen: Observation, size: Sequence[int]) -> Iterable[Shape]:
    height, width = size
    for box in seen.boxes:
        edges = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
        yield Shape(box.label, round(box.score, DIGITS), [round(edge, DIGITS) for edge in edges])
    for pose in seen.poses:
        kept = {number: point for number, point in enumerate(pose.points) if point.score >= SURE}
        places = {number: place for place, number in enumerate(kept)}
        lines = [[places[one], places[other]] for one, other in pose.skeleton if one in places and other in places]
        points = [[round(point.x / width, DIGITS), round(point.y / height, DIGITS)] for point in kept.values()]
        yield Shape(pose.label, round(pose.score, DIGITS), points=points, lines=lines)


def _tinted(picture: np.ndarray, mask: Mask) -> np.ndarray:
    """The picture with its labels' colours over it, but for the first, which is the ground, and for what is not known."""
    height, width = picture.shape[:2]
    rows = np.arange(height) * mask.numbers.shape[0] // height
    columns = np.arange(width) * mask.numbers.shape[1] // width
    numbers = mask.numbers[rows][:, columns]
    table = np.array([COLOURS[(number - 1) % len(COLOURS)] for number in range(256)], np.float32)
    is_label = ((numbers > 0) & (numbers < len(mask.labels)))[..., None]
    mixed = np.where(is_label, (1 - TINT) * picture + TINT * table[numbers], picture)
    return np.rint(mixed).astype(np.uint8)
