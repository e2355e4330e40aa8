"""Cross-validation: a training for each fold, its held-out rows answered, and all of it told together, also against another model's."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.box.devices.environment import environment
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.contracts.task import Score
from edgemm.data import scoring
from edgemm.data.dataset import TableDataset, find_labels
from edgemm.data.detected import detected
from edgemm.data.folds import Folds, folds_of, held_out
from edgemm.data.judged import judged
from edgemm.errors import DataError, OutputError
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.store.artifact import write_json
from edgemm.verbs._train import one, place
from edgemm.verbs._train.reporting import measurement

if TYPE_CHECKING:
    from edgemm.verbs._train.one import Asked

WRITTEN = ("folds.json", "report.html", "report.json", place.ANSWERS)
POINTS = "accuracy_drop_points"


@dataclass(frozen=True)
class Answers:
    """What was answered to every row while it was held out; ``keys``: the rows, such as ``train 17``."""

    keys: Sequence[str]
    answers: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CrossValidation:
    """What ``train --folds`` wrote.

    Attributes:
        folder: Holds folds.json, report.html and report.json, answers.npz, and a folder for each fold with its model.
        outputs: Output -> ``metric``, ``folds`` (its value in each), ``mean``, ``deviation``, and ``value``, ``low``, ``high``, ``n`` of
            all rows together.
        against: Output -> what this model has more than the other: ``points`` with ``low`` and ``high``, paired over all rows, and the
            differences of the folds, ``mean`` and ``deviation``.
    """

    folder: Path
    outputs: Mapping[str, Mapping[str, Any]]
    group: str | None = None
    other: str = ""
    against: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        plain = {"folder": str(self.folder), "group": self.group, "outputs": self.outputs}
        return plain | ({"other": self.other, "against": self.against} if self.against else {})

    def __str__(self) -> str:
        return "\n".join([*map(self._of_output, self.outputs), *map(self._compared, self.against)])

    def _of_output(self, name: str) -> str:
        told = self.outputs[name]
        values = ", ".join(f"{value:.4f}" for value in told["folds"])
        mean, whole = f"{told['mean']:.4f} ± {told['deviation']:.4f}", ""
        if told["low"] is not None:
            whole = f"; all {told['n']} rows: {told['value']:.4f} [{told['low']:.4f}, {told['high']:.4f}]"
        return f"{told['metric']} of {name}: {mean} over {len(told['folds'])} folds ({values}){whole}"

    def _compared(self, name: str) -> str:
        told = self.against[name]
        interval = "" if told["low"] is None else f" [{told['low']:+.2f}, {told['high']:+.2f}]"
        shown = "" if told["low"] is None or told["low"] <= 0 <= told["high"] else ", shown"
        words = f"{told['value']:+.2f} {told['unit']}{interval}{shown}, paired over {told['n']} rows"
        return f"{name} against {self.other}: {words}; by fold {told['mean']:+.2f} ± {told['deviation']:.2f}"


def train(asked: Asked, count: int, progress: Progress, *, group: str | None, against: Path | None) -> CrossValidation:
    """Train and answer fold by fold; folds that are done already are not trained again.

    Args:
        against: The folder of another cross-validation over the same folds.

    Raises:
        DataError: Folds that cannot be, or another cross-validation over other rows.
        OutputError: The folder holds something else.
        EdgemmError: As ``one.train``.
    """
    names = [f"fold-{number}" for number in range(1, count + 1)]
    place.require_own(asked.folder, written=(*WRITTEN, *names))
    dataset = asked.open(asked.card)
    folds = folds_of(dataset, count, seed=asked.options.seed, group=group)
    if folds.group:
        progress.note(f"rows of one '{folds.group}' are never on both sides")
    other = _read(against) if against else None
    if other and sorted(other.keys) != sorted(_words(key) for key in folds.place):
        why = "a comparison in pairs needs the same data, split by split."
        raise DataError(f"{against} was answered on other rows.", why=why, fix="cross-validate both on the same data.")
    card = find_labels(dataset, asked.card)
    parts, trained = list[Answers](), list[place.Training]()
    for number, name in enumerate(names):
        progress.note(f"fold {number + 1} of {count}")
        of_fold = _fold(asked, card, folds, number, asked.folder / name)
        trained.append(one.train(of_fold, progress))
        parts.append(_answered(of_fold.folder, folds.rows(number)))
    pooled = _joined(parts)
    outputs = _told(card, trained, pooled)
    compared = _compared(card, parts, pooled, other) if other else {}
    done = CrossValidation(asked.folder, outputs, folds.group, str(against or ""), compared)
    _write(done, card, asked, pooled, parts)
    return done


def _fold(asked: Asked, card: Card, folds: Folds, number: int, folder: Path) -> Asked:
    def opened(wanted: Card) -> TableDataset:
        return held_out(asked.open(wanted), folds, number)

    return replace(asked, card=card, open=opened, folder=folder, keeps_answers=True)


def _answered(folder: Path, held: Sequence[tuple[str, int]]) -> Answers:
    """The answers that a fold's training left, with the rows they are to; rows that could not be read are not among them."""
    with np.load(folder / place.ANSWERS) as arrays:
        rows = arrays["rows"].tolist()
        answers, truth = _kinds(arrays)
    waiting, keys = iter(held), list[str]()
    for row in rows:  # both are in the order of the data
        keys.append(_words(next(key for key in waiting if key[1] == row)))
    return Answers(keys, answers, truth)


def _kinds(arrays: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Answers and truth of a file, by output."""
    answers, truth = (
        {name.partition("/")[2]: arrays[name] for name in arrays if name.startswith(f"{kind}/")} for kind in ("answers", "truth")
    )
    return answers, truth


def _words(key: tuple[str, int]) -> str:
    return f"{key[0]} {key[1]}"


def _joined(parts: Sequence[Answers]) -> Answers:
    def all_of(kind: str) -> dict[str, np.ndarray]:
        return {name: np.concatenate([getattr(part, kind)[name] for part in parts]) for name in getattr(parts[0], kind)}

    return Answers([key for part in parts for key in part.keys], all_of("answers"), all_of("truth"))


def _scores(card: Card, part: Answers) -> dict[str, Score]:
    return {name: statistics_.score() for name, statistics_ in _statistics(card, part).items()}


def _statistics(card: Card, part: Answers) -> dict[str, Any]:
    having = {name: task for name, task in tasks.tasks(card).items() if task.is_scored}
    return {name: task.measure(part.answers, part.truth.get(name)) for name, task in having.items()}


def _told(card: Card, trained: Sequence[place.Training], pooled: Answers) -> dict[str, dict[str, Any]]:
    outputs = {}
    for name, score in _scores(card, pooled).items():
        values = [training.metrics["test"][name][score.name] for training in trained]
        outputs[name] = {
            "metric": score.name, "folds": values, "mean": statistics.mean(values), "deviation": statistics.stdev(values),
            "value": score.value, "low": score.low, "high": score.high, "n": score.n,
        }  # fmt: skip
    return outputs


def _compared(card: Card, parts: Sequence[Answers], pooled: Answers, other: Answers) -> dict[str, dict[str, Any]]:
    """What this model has more than the other one: over all rows in pairs, and fold by fold."""
    known = {name for name in _names(card) if name in other.truth or name in other.answers}
    if missing := sorted(set(_names(card)) - known):
        raise DataError(f"the other model does not answer '{missing[0]}'.", fix="compare models with the same outputs.")
    whole = _statistics(card, _in_order(other, pooled.keys))
    of_fold = [(_statistics(card, part), _statistics(card, _in_order(other, part.keys))) for part in parts]
    told = {}
    for name, own in _statistics(card, pooled).items():
        gain = own.gain(1.0, [(-1.0, whole[name])])
        each = [mine[name].gain(1.0, [(-1.0, theirs[name])]).value for mine, theirs in of_fold]
        told[name] = {
            "value": gain.value, "low": gain.low, "high": gain.high, "unit": gain.unit, "n": gain.n, "folds": each,
            "mean": statistics.mean(each), "deviation": statistics.stdev(each),
        }  # fmt: skip
    return told


def _names(card: Card) -> list[str]:
    return [name for name, task in tasks.tasks(card).items() if task.is_scored]


def _in_order(answers: Answers, keys: Sequence[str]) -> Answers:
    """The answers to these rows, in their order."""
    place_of = {key: number for number, key in enumerate(answers.keys)}
    order = np.array([place_of[key] for key in keys])
    kinds = ({name: array[order] for name, array in named.items()} for named in (answers.answers, answers.truth))
    return Answers(keys, *kinds)


def _read(folder: Path) -> Answers:
    """Another cross-validation's answers.

    Raises:
        OutputError: The folder holds none.
    """
    try:
        with np.load(folder / place.ANSWERS) as arrays:
            return Answers(arrays["keys"].tolist(), *_kinds(arrays))
    except (OSError, ValueError, KeyError) as err:
        why, fix = f"there is no {place.ANSWERS} of a cross-validation in it.", "write one with train --folds, and give its folder."
        raise OutputError(f"{folder} holds no cross-validation.", why=why, fix=fix) from err


def _write(done: CrossValidation, card: Card, asked: Asked, pooled: Answers, parts: Sequence[Answers]) -> None:
    """The folder's own files, and its page."""
    counts = [len(part.keys) for part in parts]
    plain = done.to_dict() | {"rows": counts}
    arrays = {f"{kind}/{name}": array for kind in ("answers", "truth") for name, array in getattr(pooled, kind).items()}
    np.savez(asked.folder / place.ANSWERS, keys=np.array(pooled.keys), **arrays)
    write_json(asked.folder / "folds.json", plain)
    grouped = f" Rows of one '{done.group}' are never on both sides." if done.group else ""
    notes = [
        f"Each of {sum(counts)} rows of train and val was answered by a model that had not seen it, in {len(parts)} folds.{grouped} "
        "Test was not looked at. Val, by which the best epoch of a fold was chosen, is a tenth of its other rows.",
        *str(done).splitlines(),
    ]
    details = Details(
        title=f"{card.path.stem if card.path else 'model'}, {len(parts)} folds",
        notes=notes,
        confusion=scoring.confusions(card.outputs, pooled.truth, {}, pooled.answers),
        detected=detected(card, pooled.truth, {}, pooled.answers),
        judged=judged(card, pooled.truth, {}, pooled.answers),
        curves=_curves(asked.folder, len(parts)),
    )
    measurements = [measurement(name, score) for name, score in _scores(card, pooled).items()]
    page.write(Report({**environment({}), **asked.about}, measurements, details=details), asked.folder)


def _curves(folder: Path, count: int) -> dict[str, list[list[float]]]:
    """What val told of each fold, a chart a metric."""
    curves = {}
    for number in range(1, count + 1):
        for name, points in json.loads((folder / f"fold-{number}" / "curves.json").read_text(encoding="utf-8")).items():
            if name.endswith("/val"):
                curves[f"{name.removesuffix('/val')} on val/fold {number}"] = points
    return curves
