"""One training, from a checked card and opened data to a folder with the model, its metrics and its page."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.contracts import plugins, stage_code, written
from edgemm.contracts.card import Card
from edgemm.contracts.modality import TrainSplit, modalities, notes
from edgemm.contracts.tracker import Tracker, opened
from edgemm.data.augmenting import Augmenter
from edgemm.data.checking import check
from edgemm.data.dataset import TableDataset, find_labels, present_samples
from edgemm.pipeline import together
from edgemm.progress import Progress
from edgemm.report import page
from edgemm.store import cache
from edgemm.store.artifact import folder_in_one_step, sha256_file, sha256_of, write_json
from edgemm.verbs._train import place, reporting, samples
from edgemm.verbs._train.place import Training
from edgemm.workshop.models.checkpoint import identity
from edgemm.workshop.training.options import TrainOptions

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel
    from edgemm.workshop.training.answers import Answered
    from edgemm.workshop.training.outcome import Trained

VERB = "edgemm.verbs.train"
HELD = "{} already holds the result of this command; --fresh trains anew"
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "tokenizers")


@dataclass(frozen=True)
class Asked:
    """A training that is wanted.

    Attributes:
        card: As the user wrote it.
        open: The data for a card: this one, or it with what it leaves open.
        options: How, as card, file and command line say it together.
        section: Those of card and file, for the record.
        tracks: Where the record goes too, as ``tracker.opened`` takes them.
        keeps_answers: Whether what was answered to test is written beside the model; ``skips_test``: nobody looks at test.
        about: Facts that its reader must know, of the run and of the report.
    """

    card: Card
    open: Callable[[Card], TableDataset]
    folder: Path
    options: TrainOptions
    section: Mapping[str, Any] = field(default_factory=dict)
    tracks: Sequence[str] = ()
    fresh: bool = False
    keeps_answers: bool = False
    skips_test: bool = False
    about: Mapping[str, str] = field(default_factory=dict)

    def augmenter(self, card: Card) -> Augmenter:
        """What changes the rows of train.

        Raises:
            CardError, Mistakes: As ``Augmenter``.
        """
        how = self.options
        return Augmenter(card, augment=how.augment, dropout=how.modality_dropout, mixup=how.mixup, seed=how.seed)


def train(asked: Asked, progress: Progress) -> Training:
    """The model, trained and written; or what the folder holds already, where it is the result of just this.

    Raises:
        EdgemmError: As the verb ``train``.
    """
    from edgemm.workshop.models.checkpoint import loading
    from edgemm.workshop.models.row_by_row import require_own_answers_on
    from edgemm.workshop.training import loop
    from edgemm.workshop.training.outcome import Diverged

    dataset = asked.open(asked.card)
    place.require_own(asked.folder)
    key = key_of(asked, dataset)
    training = None if asked.fresh else place.finished(asked.folder, key)
    if training:
        progress.note(HELD.format(asked.folder))
        return training
    for words in asked.about.values():
        progress.note(words)
    with tempfile.TemporaryDirectory() as scratch:
        whole = completed(asked.card, dataset, Path(scratch), progress)
        dataset = asked.open(whole)
        check(dataset, note=progress.note)
        for note in notes(whole):
            progress.note(f"note: {note}")
        model = loop.seeded_model(whole, seed=asked.options.seed, note=progress.note)
        require_own_answers_on(model, dataset, progress.note)
        state, augmenter = asked.folder / place.STATE / "state.pt", asked.augmenter(whole)
        if asked.fresh:
            state.unlink(missing_ok=True)
        with _tracked(asked) as trackers:
            try:
                done = loop.train_model(
                    model, dataset, options=asked.options, from_scratch=not asked.card.weights, state=state, key=key,
                    augmenter=augmenter if augmenter.does_anything else None, watch=_watch(trackers), progress=progress.update,
                    note=progress.note,
                )  # fmt: skip
            except Diverged as err:
                if err.best_epoch:
                    loading.save_model(model, asked.folder / place.LAST_GOOD)
                raise
            training = _write(asked, model, dataset, augmenter, done, key, progress)
            for tracker in trackers:
                tracker.end(training.metrics, [asked.folder / "report.html", training.card])
            return training


def train_together(asked: Asked, given: Mapping[str, Any], processes: int, progress: Progress) -> Training:
    """What ``train`` does, by several processes of this machine.

    Args:
        given: The arguments of the verb, as plain values.

    Raises:
        EdgemmError: As the verb ``train``.
    """
    place.require_own(asked.folder)
    key = key_of(asked, asked.open(asked.card))
    training = None if asked.fresh else place.finished(asked.folder, key)
    if training:
        progress.note(HELD.format(asked.folder))
        return training
    with progress.stage(f"train in {processes} processes"):
        together.run("train", given, processes, progress)
    trained = place.finished(asked.folder, key)
    assert trained is not None  # they ended well
    return dataclasses.replace(trained, reused=False)


def completed(card: Card, dataset: TableDataset, scratch: Path, progress: Progress) -> Card:
    """The card with what it leaves open filled in from the train split.

    Args:
        scratch: Folder for the tokenizers that are built.

    Raises:
        DataError: A row cannot be read, or values that are no labels.
    """
    card = find_labels(dataset, card)
    inputs = dict(card.inputs)
    for name, modality in modalities(card).items():
        cells, present = functools.partial(dataset.cells, "train", name), functools.partial(present_samples, dataset, name)
        learned = modality.learned(TrainSplit(name, cells, present, scratch, has_weights=bool(card.weights)))
        inputs[name] = dataclasses.replace(inputs[name], options={**inputs[name].options, **learned.options})
        if learned.note:
            progress.note(f"{name}: {learned.note}")
    return card.replace(inputs=inputs)


def key_of(asked: Asked, dataset: TableDataset, verb: str = VERB, more: Mapping[str, Any] | None = None) -> str:
    """What a training depends on.

    Args:
        verb: The module whose code is run.
        more: Options that are none of ``asked``.
    """
    card = asked.card
    applied = {step for entry in card.applied for step in entry}
    apart = ("edgemm.report", "edgemm.pipeline")  # a page of older looks, or how processes are started, is no reason to train anew
    code = stage_code.of(verb, only={"steps": applied}, without=apart)
    decoders = [name for spec in card.inputs.values() for name in plugins.packages("modalities", spec.modality)]
    facts = {
        "model": identity.identity(card),
        "data": dataset.fingerprint(),
        "options": dataclasses.asdict(asked.options),
        "files": [sha256_file(file) for file in asked.augmenter(card).files()],
        "skip_bad_rows": dataset.leaves_out,
        **(more or {}),
    }
    return sha256_of(cache.key_facts(facts, code=code.digest, packages={*PACKAGES, *decoders}))


@contextmanager
def _tracked(asked: Asked) -> Iterator[list[Tracker]]:
    """Trackers that know of the training; where it breaks off they are told."""
    trackers = opened(asked.tracks)
    above = f"{asked.folder.parent.name}-" if asked.keeps_answers else ""
    for tracker in trackers:
        tracker.begin(f"{above}{asked.folder.name}", dataclasses.asdict(asked.options))
    try:
        yield trackers
    except BaseException:
        for tracker in trackers:
            tracker.fail()
        raise


def _watch(trackers: Sequence[Tracker]) -> Callable[[int, Mapping[str, float]], None]:
    def tell(epoch: int, values: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.epoch(epoch, values)

    return tell


def _write(
    asked: Asked, model: FusedModel, dataset: TableDataset, augmenter: Augmenter, done: Trained, key: str, progress: Progress
) -> Training:
    """Score the test split and write everything in one step; in a run of several processes only the first does."""
    from edgemm.data.in_memory import open_split
    from edgemm.workshop.models.checkpoint import loading
    from edgemm.workshop.training.answers import evaluate

    metrics = {"val": done.metrics} if done.metrics else {}
    if not done.is_main:
        return Training(asked.folder, metrics, done.best_epoch, done.ended, done.goodness)
    split = open_split(dataset, "test") if dataset.count("test") and not asked.skips_test else None
    test = evaluate(model, split) if split else None
    if test is not None and split is not None:
        metrics["test"] = test.measured()
        if asked.options.repeats > 1:
            metrics[place.REPEATED] = evaluate(model, split, change=augmenter.augmented, repeats=asked.options.repeats).measured()
    if dataset.bad_rows:
        progress.note(f"{reporting.left_out(dataset.bad_rows)}: {dataset.bad_rows[0]}")
    pictures = samples.pictures(dataset, augmenter) if augmenter.augmented_inputs else ()
    report = reporting.report(
        model.card, done, metrics, test, dataset.bad_rows, pictures, repeats=asked.options.repeats, about=asked.about
    )  # fmt: skip
    with folder_in_one_step(asked.folder) as aside:
        loading.write_model(model, aside, asked.folder)
        told = {"best_epoch": done.best_epoch, "epochs": done.epochs, "ended": done.ended, "goodness": done.goodness}
        write_json(aside / "metrics.json", {"key": key, **told, **metrics})
        write_json(aside / "curves.json", done.curves)
        page.write(report, aside)
        if asked.section:
            (aside / place.OPTIONS).write_text(written.dump(_plain(asked.section), default_flow_style=None, width=140), encoding="utf-8")
        if asked.keeps_answers and test is not None:
            _keep_answers(test, aside)
    return Training(asked.folder, metrics, done.best_epoch, done.ended, done.goodness)


def _keep_answers(test: Answered, aside: Path) -> None:
    parts = {"answers": test.answers, "truth": test.truth}
    arrays = {f"{part}/{name}": array for part, named in parts.items() for name, array in named.items()}
    np.savez(aside / place.ANSWERS, rows=test.rows, **arrays)  # type: ignore[arg-type]


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section as a train.yaml says it."""
    augment = {name: [{kind: options} for kind, options in listed] for name, listed in section.get("augment", {}).items()}
    return {**section, **({"augment": augment} if augment else {})}
