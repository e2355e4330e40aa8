"""A run: its model, its data, and the stages it goes through, each found in the cache or made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.disturbed import load
from edgemm.contracts import card as cards
from edgemm.contracts import plugins, stage_code
from edgemm.contracts.answers import Arrays
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.deployment import Deployment
from edgemm.data.checking import check
from edgemm.data.dataset import find_labels, open_dataset, synthetic
from edgemm.progress import Progress
from edgemm.store import cache
from edgemm.store.artifact import Artifact, Maker, write_bytes, write_json
from edgemm.store.stored_zip import npz_bytes

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
        load_before: What the processor was busy with when the run began.
        made: Names of stages that were really run, in order; those found in the cache are in ``reused``.
    """

    card: Card
    data: str | None
    dataset: Dataset
    progress: Progress
    seed: int = 0
    skip_bad_rows: bool = False
    load_before: float = field(default_factory=load)
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    @cached_property
    def identity(self) -> dict[str, Any]:
        from edgemm.workshop.models.checkpoint.identity import identity

        return identity(self.card)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        return self.dataset.fingerprint()

    def show(self, text: str, fraction: float) -> None:
        """Progress of the running stage, in the form that probes and steps call."""
        self.progress.update(text, fraction)

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        make: Maker,
        *,
        steps: Iterable[str] | None = None,
        targets: Iterable[str] | None = None,
        packages: Iterable[str] | None = None,
        runs: Iterable[Deployment] = (),
        on_this_machine: bool = False,
    ) -> Artifact:
        """A stage of this run: found by the code of the module that ``make`` stands in, ``inputs`` and versions, or made.

        What a stage leaves out of the following costs a needless repetition, never a wrong result.

        Args:
            name: The first word is the stage's in the cache, what follows is for the reader of the progress.
            steps: Steps that ``make`` calls, beside those that the card's model went through; None = it may be any.
            targets: Targets that it uses, beside those that the code names; None = it may be any.
            packages: Distributions whose version matters, beside those that decode the inputs; None = all that the code imports.
            runs: Deployments that ``make`` opens: their targets and what these need are added to ``targets`` and ``packages``.
            on_this_machine: True where the result depends on the machine too.
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
                inputs,
                noted,
                code=code.digest,
                packages=code.packages if packages is None else {*packages, *decoders},
                on_this_machine=on_this_machine,
                waiting=self.progress.note,
            )
        (self.made if fresh else self.reused).append(name)
        return artifact

    def json(self, name: str, facts: Mapping[str, Any], compute: Callable[[], Any], **options: Any) -> Any:
        """The plain values that ``compute`` returns, from the cache where they are there.

        Args:
            name, facts, options: As for ``stage``.
        """

        def make(scratch: Path) -> Path:
            write_json(scratch / RESULT, compute())
            return scratch / RESULT

        make.__module__ = compute.__module__  # whose code it is
        return json.loads(self.stage(name, facts, make, **options).main.read_text(encoding="utf-8"))

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
    model = read_card(card)
    if data is not None:
        model = find_labels(data, model)
        dataset = open_dataset(data, model, skip_bad_rows=skip_bad_rows)
        check(dataset, needed=needed)
    else:
        dataset = synthetic(model, seed=seed)
    return Job(model, None if data is None else str(data), dataset, progress or Progress(), seed, skip_bad_rows)


def read_card(given: str | Path) -> Card:
    """A card, or the one about a bare ``.onnx``: beside it, or drafted from it."""
    path = Path(given)
    if path.suffix != ".onnx":
        return cards.load(given)
    beside = path.parent / "model.yaml"
    if beside.is_file():
        card = cards.load(beside)
        if card.model_path and card.model_path.resolve() == path.resolve():
            return card
    from edgemm.graph import onnx_card

    return onnx_card.draft(path)


def samples(job: Job, count: int = PARITY_SAMPLES) -> list[dict[str, np.ndarray]]:
    """The first ``count`` real samples of val (train where there is no val), batch size 1 each."""
    split = next(name for name in ("val", "train", "test") if name in job.dataset.splits())
    return [batch.inputs for batch in islice(job.dataset.batches(split, 1, limit=count), count)]
