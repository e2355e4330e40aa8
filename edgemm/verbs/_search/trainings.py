"""`edgemm search --train`: train with many values of options, one after the other, and keep the best by val; test is looked at once."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemm.box.devices.environment import environment
from edgemm.contracts import card_file as cards
from edgemm.contracts import task as tasks
from edgemm.contracts import train_search, train_section
from edgemm.contracts.card import Card
from edgemm.contracts.interval import Interval
from edgemm.contracts.plain_values import plain
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.contracts.search_parts import FAILED, OnFront, OutputLoss, Searched, Tried
from edgemm.contracts.search_space import MEAN, Search
from edgemm.data.dataset import TableDataset, open_dataset
from edgemm.errors import CardError, Collector, DataError, EdgemmError, Mistakes, TrainError
from edgemm.pipeline.searching import place, wording
from edgemm.pipeline.searching.goal import Goal
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.store import cache
from edgemm.store.artifact import write_json
from edgemm.verbs._train import one
from edgemm.verbs._train.one import Asked
from edgemm.workshop.models.checkpoint import identity
from edgemm.workshop.training.options import TrainOptions

if TYPE_CHECKING:
    from edgemm.pipeline.searching.study import Study

AskedFor = Callable[[Mapping[str, Any], Path], Asked]
"""Values and a folder -> the training that they mean."""
RUNNING = "trial"
"""Folder of the training that runs; it goes on after a kill."""


@dataclass(frozen=True)
class TrainingsSearched:
    """What a search over trainings left.

    Attributes:
        folder: Holds ``best`` (a trained model as ``train`` writes it), ``study.log``, ``report.html`` and ``front.json``.
        best: Of the best by val.
        searched: Everything that was tried.
    """

    folder: Path
    best: Path
    searched: Searched
    told: str

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "best": str(self.best), "search": plain(self.searched)}

    def __str__(self) -> str:
        first = f"{len(self.searched.trials)} trainings; the best by val: {wording.on_front(self.searched.front[0])}"
        return f"{first}\n{self.told}"


def search(
    card: str | Path, data: str | Path, folder: Path, *, config: str | Path | None, trials: int, until_s: float, seed: int,
    skip_bad_rows: bool, progress: Progress,
) -> TrainingsSearched:  # fmt: skip
    """Try, and train the best once more, now with test.

    Args:
        until_s: ``time.monotonic`` after which no more trainings are begun.

    Raises:
        CardError, Mistakes: The section asks for what cannot be.
        TrainError: Every training failed.
        DataError: There is no val split.
        EdgemmError: As ``train``.
    """
    source = cards.load(card)
    section = train_section.over(source.train, train_section.load(config, source) if config else {})
    wanted = train_search.parse(section, source)

    def opened(known: Card) -> TableDataset:
        return open_dataset(data, known, skip_bad_rows=skip_bad_rows)

    dataset = opened(source)
    if not dataset.count("val"):
        raise DataError("a search judges its trials on val.", why="there is no row of val.", fix="add rows with split = val, or of train.")
    asked = partial(_asked, section, source, opened, seed)
    _check_ends(wanted, asked)
    about = {
        "card": identity.identity(source),
        "data": dataset.fingerprint(),
        "train": section,
        "seed": seed,
        "skip_bad_rows": skip_bad_rows,
    }
    with place.taken(folder, about):
        return _conduct(wanted, asked, folder, trials, until_s, seed, progress)


def _asked(
    section: Mapping[str, Any], card: Card, opened: Callable[[Card], TableDataset], seed: int, values: Mapping[str, Any], folder: Path
) -> Asked:
    """The training that values mean."""
    changed, own = train_search.applied(section, card, values)
    return Asked(own, opened, folder, TrainOptions.of(changed, seed=seed), changed)


def _check_ends(wanted: Search, asked: AskedFor) -> None:
    """Try what cannot be: every value by which a parameter is checked, the others being the first.

    Raises:
        CardError: The factory refuses one, or it cannot be trained so.
        Mistakes: Several of them, each once.
    """
    from edgemm.workshop.training import checking, loop

    mistakes, told = Collector(), set[tuple[str, str | None]]()
    first = {parameter.name: parameter.ends()[0] for parameter in wanted.space}
    for parameter in wanted.space:
        for value in parameter.ends():
            try:
                one_of = asked({**first, parameter.name: value}, Path())
                one_of.options.check()
                checking.check(one_of.card, one_of.options, changes=bool(one_of.augmenter(one_of.card).augmented_inputs))
                if parameter.option == train_search.KWARGS and not any(task.lacks_labels for task in tasks.tasks(one_of.card).values()):
                    loop.seeded_model(one_of.card, seed=0)
            except EdgemmError as err:
                for one in (one for one in (err.errors if isinstance(err, Mistakes) else (err,)) if (one.what, one.why) not in told):
                    told.add((one.what, one.why))
                    mistakes.add(CardError(f"train.search.space.{parameter.name}: {value!r}: {one.what}", why=one.why, fix=one.fix))
    mistakes.raise_if_any()


def _conduct(
    wanted: Search, asked: AskedFor, folder: Path, trials: int, until_s: float, seed: int,
    progress: Progress,
) -> TrainingsSearched:  # fmt: skip
    from edgemm.pipeline.searching.study import Study  # optuna: the extra 'search'

    goal = Goal({"accuracy": MEAN}, [], [MEAN])
    study = Study(folder / place.JOURNAL, wanted, goal, seed=seed, trials=trials)
    while time.monotonic() < until_s and (batch := study.next_batch()):
        results = {number: _tried(asked, number, values, folder / RUNNING, study, progress) for number, values in batch}
        study.tell(results)
        place.write_log(folder, [wording.line(tried, goal) for tried in study.results()])
        for tried in results.values():
            progress.note(wording.line(tried, goal))
    ranked = goal.ranked(study.results())
    if not ranked:
        why = next((tried.why for tried in study.results()), "no training was begun in the time given.")
        raise TrainError("no training of the search came to an end.", why=why, fix="see study.log, and train with one of its values.")
    best = ranked[0]
    with progress.stage("train the best"):
        training = one.train(asked(best.options, folder / place.BEST), progress)
    front = [OnFront(best, Interval(best.points or 0.0), {}, [seed], (), best.losses)]
    searched = Searched("val", wanted.sampler, goal.words(), seed, {}, study.results(), study.importances(), front)
    write_json(folder / place.FRONT, plain(searched))
    notes = [f"{len(searched.trials)} trainings, judged on val. The best was trained once more, and test looked at once: {training}."]
    details = Details(title="Search over trainings", notes=notes, search=searched)
    page.write(Report(environment({"torch": cache.version("torch")}), [], details=details), folder)
    return TrainingsSearched(folder, folder / place.BEST, searched, str(training))


def _tried(asked: AskedFor, number: int, values: Mapping[str, Any], folder: Path, study: Study, progress: Progress) -> Tried:
    """One training, judged by val alone; what it wrote is removed."""
    tried, began_s = Tried(f"trial {number}", dict(values)), time.perf_counter()
    try:
        with progress.stage(f"trial {number} of {study.trials}"):
            training = one.train(replace(asked(values, folder), skips_test=True), progress)
    except EdgemmError as err:
        return replace(tried, state=FAILED, why=f"{err.what} {err.why}".strip(), seconds=round(time.perf_counter() - began_s, 1))
    finally:
        _remove(folder)
    lost = 100 * (1 - training.goodness)
    losses = {MEAN: OutputLoss(lost, unit="points")} if math.isfinite(lost) else {}
    return replace(tried, losses=losses, seconds=round(time.perf_counter() - began_s, 1))


def _remove(folder: Path) -> None:
    """What a training left, unless it was interrupted: then it goes on from there."""
    if (folder / "metrics.json").is_file() or not (folder / ".training").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
