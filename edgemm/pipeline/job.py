"""A run: its model, its data, and the stages it goes through, each found in the cache or made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgemm.box.measuring.disturbed import load
from edgemm.box.measuring.predict import Predictor
from edgemm.contracts import card_file as cards
from edgemm.contracts import plain_values, plugins, stage_code
from edgemm.contracts.answers import Arrays
from edgemm.contracts.card import Card, Input
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.modality import notes
from edgemm.contracts.target import needs_accelerator
from edgemm.data.checking import check
from edgemm.data.dataset import find_labels, open_dataset, synthetic
from edgemm.progress import Progress
from edgemm.store import cache
from edgemm.store.artifact import Artifact, Maker, write_bytes, write_json
from edgemm.store.machine import give_back_memory
from edgemm.store.stored_zip import npz_bytes

R = TypeVar("R")
RESULT = "result.json"
PARITY_SAMPLES = 16
"""Samples the ladder compares: enough to meet every class of a small task, few enough to cost under a second."""


@dataclass(frozen=True)
class Job:
    """What a run works on.

    Attributes:
        card: The model.
        data: What the user named; None for an ONNX file without data.
        dataset: That opened, or seeded synthetic samples.
        processes: How many train one model together, where a step trains.
        predictor: Processes that answer rows, one a target; a verb that asks several times holds it open (``with job.predictor``).
        load_before: What the processor was busy with when the run began.
        notes: What was guessed about the model or changed on reading it, for the report.
        made: Names of stages that were really run, in order; those found in the cache are in ``reused``.
    """

    card: Card
    data: str | None
    dataset: Dataset
    progress: Progress
    seed: int = 0
    skip_bad_rows: bool = False
    processes: int = 1
    predictor: Predictor = field(default_factory=Predictor, compare=False)
    load_before: float = field(default_factory=load)
    notes: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    @cached_property
    def identity(self) -> dict[str, Any]:
        from edgemm.workshop.models.checkpoint.identity import identity

        return identity(self.card)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        return self.dataset.fingerprint()

    @cached_property
    def weights(self) -> Mapping[str, Any]:
        """``origin``: ``named`` by the card, else as ``checkpoint.origin.Origin`` says; ``notes`` on what of the card's file was taken.

        Raises:
            CheckpointError: The card's weights are missing, damaged, unsafe or do not fit.
        """
        if not self.card.factory:
            return {"origin": "named", "notes": []}

        def look() -> dict[str, Any]:
            from edgemm.workshop.models.checkpoint.loading import load_model
            from edgemm.workshop.models.checkpoint.origin import origin

            notes: list[str] = []
            load_model(self.card, note=notes.append)
            return {"origin": "named" if self.card.weights else origin(self.card), "notes": notes}

        packages = ("torch", "transformers")
        return self.value(dict[str, Any], "weights", {"model": self.identity}, look, steps=(), targets=(), packages=packages)

    def note(self, text: str) -> None:
        """Say something about the model, once, and keep it for the report."""
        if text not in self.notes:
            self.notes.append(text)
            self.progress.note(f"note: {text}")

    def show(self, text: str, fraction: float) -> None:
        """Progress of the running stage, in the form that probes and steps call."""
        self.progress.update(text, fraction)

    def stage(
        self,
        name: str,
        facts: Mapping[str, Any],
        make: Maker,
        *,
        steps: Iterable[str] | None = None,
        targets: Iterable[str] | None = None,
        packages: Iterable[str] | None = None,
        runs: Iterable[Deployment] = (),
        on_this_machine: bool = False,
        timed: bool = False,
        accelerated: bool = False,
    ) -> Artifact:
        """A stage of this run: found by the code of the module that ``make`` stands in, ``facts`` and versions, or made.

        What a stage leaves out of the following costs a needless repetition, never a wrong result.

        Args:
            name: The first word is the stage's in the cache, what follows is for the reader of the progress.
            steps: Steps that ``make`` calls, beside those that the card's model went through; None = it may be any.
            targets: Targets that it uses, beside those that the code names; None = it may be any.
            packages: Distributions whose version matters, beside those that decode the inputs; None = all that the code imports.
            runs: Deployments that ``make`` opens: their targets and what these need are added to ``targets`` and ``packages``.
            on_this_machine: True where the result depends on the kind of machine too: what its processor computes.
            timed: True where it depends on how fast this machine is: then the cores that may be used count.
            accelerated: True where graphics processors count, beside those that ``runs`` names.
        """
        opened = list(runs)
        if opened:
            targets = [*(targets or ()), *(deployment.target for deployment in opened)]
            packages = [*(packages or ()), *(name for deployment in opened for name in distributions(deployment))]
        only = {
            **({} if steps is None else {"steps": [*steps, *applied_steps(self.card)]}),
            **({} if targets is None else {"targets": targets}),
        }
        code = stage_code.of(make.__module__, only=only)
        decoders = [name for spec in self.card.inputs.values() for name in plugins.packages("modalities", spec.modality)]
        fresh = False

        def noted(scratch: Path) -> Path:
            nonlocal fresh
            fresh = True
            return make(scratch)

        with self.progress.stage(name):
            artifact = cache.stage(
                name.split(" ")[0],
                facts,
                noted,
                code=code.digest,
                packages=code.packages if packages is None else {*packages, *decoders},
                on_this_machine=on_this_machine,
                timed=timed,
                accelerated=accelerated or any(needs_accelerator(deployment.target, deployment.options) for deployment in opened),
                waiting=self.progress.note,
            )
        (self.made if fresh else self.reused).append(name)
        if fresh:
            give_back_memory()
        return artifact

    def value(self, kind: type[R], name: str, facts: Mapping[str, Any], compute: Callable[[], R], **options: Any) -> R:
        """What ``compute`` returns, from the cache where it is there.

        Args:
            kind: Its type, as ``plain_values.read`` takes it.
            name, facts, options: As for ``stage``.
        """

        def make(scratch: Path) -> Path:
            write_json(scratch / RESULT, plain_values.plain(compute()))
            return scratch / RESULT

        make.__module__ = compute.__module__  # whose code it is
        return plain_values.read(kind, json.loads(self.stage(name, facts, make, **options).main.read_text(encoding="utf-8")))

    def npz(self, name: str, facts: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]], **options: Any) -> Artifact:
        """A file of the arrays that ``compute`` returns, ``<first word of name>.npz``.

        Args:
            name, facts, options: As for ``stage``.
        """

        def make(scratch: Path) -> Path:
            path = scratch / f"{name.split(' ')[0]}.npz"
            write_bytes(path, npz_bytes(compute()))
            return path

        make.__module__ = compute.__module__  # whose code it is
        return self.stage(name, facts, make, **options)

    def arrays(self, name: str, facts: Mapping[str, Any], compute: Callable[[], Mapping[str, np.ndarray]], **options: Any) -> Arrays:
        """The arrays of ``npz``, read."""
        with np.load(self.npz(name, facts, compute, **options).main, allow_pickle=False) as file:
            return dict(file)


def distributions(deployment: Deployment) -> list[str]:
    """Whose version matters to what a deployment computes; torch is not imported to tell."""
    return list(plugins.packages("targets", deployment.target) or deployment.versions())


def applied_steps(card: Card) -> list[str]:
    """Steps that a checkpoint's model went through: loading it takes their code."""
    return [step for entry in card.applied for step in entry]


def start(
    card: str | Path,
    data: str | Path | None,
    *,
    needed: Sequence[str] = (),
    seed: int = 0,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Job:
    """Read the card (drafting one for a bare ``.onnx``) and open the data; without data, seeded synthetic samples.

    Args:
        needed: Splits of ``data`` that the command cannot do without.

    Raises:
        CardError, DataError: Either is wrong.
        Mistakes: Several rows are.
    """
    model, guesses = read_card(card, data)
    if data is not None:
        model = find_labels(data, model)
        dataset = open_dataset(data, model, skip_bad_rows=skip_bad_rows)
        check(dataset, needed=needed, note=(progress or Progress()).note)
    else:
        dataset = synthetic(model, seed=seed)
    job = Job(model, None if data is None else str(data), dataset, progress or Progress(), seed, skip_bad_rows)
    for note in (*guesses, *notes(model)):
        job.note(note)
    return job


def read_card(given: str | Path, data: str | Path | None = None) -> tuple[Card, list[str]]:
    """A card, or the one about a bare ``.onnx``: beside it, or drafted from it; and what is to be said of its states.

    A state that was only guessed is an input where the data hold it.
    """
    notes: list[str] = []
    card, is_drafted = _card(Path(given), given, notes)
    states = {name: str(spec.options["state"]) for name, spec in card.inputs.items() if spec.options.get("state")}
    columns = open_dataset(data, card).source.columns if states and data is not None else ()
    held = [name for name in states if card.column(name) in columns]
    if not is_drafted:
        return card, [f"the card calls input '{name}' a state: nothing is calibrated on the data's own '{name}'." for name in held]
    notes += [_guess(name, output, given, is_held=name in held) for name, output in states.items()]
    return card.replace(inputs={name: _stateless(spec) if name in held else spec for name, spec in card.inputs.items()}), notes


def _card(path: Path, given: str | Path, notes: list[str]) -> tuple[Card, bool]:
    """A card, and whether it was drafted: what was guessed then goes into ``notes``."""
    if path.suffix != ".onnx":
        return cards.load(given), False
    if card := cards.beside(path):
        return card, False
    from edgemm.graph import onnx_card

    return onnx_card.draft(path, notes.append), True


def _stateless(spec: Input) -> Input:
    return replace(spec, options={key: value for key, value in spec.options.items() if key != "state"})


def _guess(name: str, output: str, file: str | Path, *, is_held: bool) -> str:
    if is_held:
        return f"input '{name}' is read from the data; it is no state that output '{output}' carries over."
    return (
        f"input '{name}' is taken for a state that output '{output}' carries over from call to call, because of its name and shape: it "
        "starts at zeros, no sample of it is read, and INT8 ranges are taken from what it carries. Say in a card whether that is right: "
        f"edgemm init {file} -o model.yaml."
    )


def samples(job: Job, count: int = PARITY_SAMPLES) -> list[dict[str, np.ndarray]]:
    """The first ``count`` real samples of val (train where there is no val), batch size 1 each."""
    split = next(name for name in ("val", "train", "test") if name in job.dataset.splits())
    return [batch.inputs for batch in islice(job.dataset.batches(split, 1, limit=count), count)]
