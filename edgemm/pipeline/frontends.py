"""Which form of an input's front-end is fastest on a target: each form alone is timed on this machine, the fastest goes into the graph."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.schedule import Candidate, Timing, time_candidates
from edgemm.box.measuring.statistics import percentiles
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.frontend_ops import Op
from edgemm.contracts.interval import Interval
from edgemm.contracts.modality import modalities
from edgemm.contracts.recipe import SIZE, Recipe
from edgemm.contracts.slugs import slugs
from edgemm.contracts.timing_parts import FormTried, FrontendChoice
from edgemm.errors import ParityError
from edgemm.pipeline.job import Job, samples
from edgemm.store.artifact import Artifact

MIB = 2**20
SECONDS, ROUNDS, CALLS, LAUNCHES = 0.6, 12, 40, 2
"""Timed calls of each form."""
CLEARLY = 1.2
"""So many times as slow as the fastest are the others where one process of each is enough."""
CLOSE = 1.03
"""A smaller form that is at most this many times as slow as the fastest is taken."""
SHARE = 0.1
"""Of a size budget a front-end takes at most this much where it has a smaller form: the weights that were learned are worth more."""


@dataclass(frozen=True)
class Fitted:
    """Front-ends that fit a target.

    Attributes:
        forms: Input -> form, where it may be another than the graph's own.
        table: A row for each input with several forms.
    """

    forms: Mapping[str, str] = field(default_factory=dict)
    table: Sequence[FrontendChoice] = ()

    def words(self) -> list[str]:
        """What was chosen, a sentence an input."""
        return [
            f"the front-end of '{row.input}' is {row.choice} on {row.target}, {_why(row)} of "
            + ", ".join(f"{form} {tried.ms.value:.3g} ms" if tried.ms else f"{form} (failed)" for form, tried in row.forms.items())
            for row in self.table
            if any(tried.ms for tried in row.forms.values())
        ]

    def apply(self, job: Job, graph: Artifact) -> Artifact:
        """``graph`` with these forms, proved to compute the same; itself where nothing changes. What another tool rewrote stays.

        Raises:
            ParityError: It computes something else.
        """
        if not self.forms:
            return graph

        def make(scratch: Path) -> Path:
            from edgemm.graph import files
            from edgemm.graph.frontend import form_of, reform

            before = files.load(graph.main)
            others = {name: form for name, form in self.forms.items() if form_of(before, job.card, name) not in (form, None)}
            after = reform(before, job.card, others)
            if others:
                _prove(before, after, samples(job), others)
            return files.save(after, scratch / "model.onnx")

        facts = {"graph": graph.folder.name, "forms": dict(self.forms), "data": job.fingerprint}
        return job.stage("frontends", facts, make, steps=(), targets=(), packages=("onnx", "onnxruntime"))


def most_bytes(recipe: Recipe) -> float:
    """Larger than this no form is taken that has a smaller one beside it: what the recipe says of size."""
    if recipe.aim == SIZE:
        return 0.0
    return SHARE * MIB * float(recipe.budgets.get("size_mib", math.inf))


def fit(job: Job, deployment: Deployment, *, forbid: frozenset[str] = frozenset(), most: float = math.inf) -> Fitted:
    """Choose for every input that has a choice; what a target that cannot run here would take is not known, so it keeps the graph's own.

    Args:
        forbid: Float types that must not run.
        most: Bytes; a larger form is taken only where it is the smallest.
    """
    several = {name: forms for name, part in modalities(job.card).items() if len(forms := part.frontend_forms()) > 1}
    if not several or deployment.plugin().cannot_run():
        return Fitted()

    def choices() -> list[FrontendChoice]:
        with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
            return [_timed(job, deployment, forbid, name, forms, Path(scratch)) for name, forms in several.items()]

    facts = {
        "inputs": {name: [job.card.inputs[name].modality, dict(job.card.inputs[name].options)] for name in several},
        "deployment": deployment.key(),
        "forbid": sorted(forbid),
        "data": job.fingerprint,
    }
    stage = f"frontend {deployment.target}"
    options = {"steps": (), "packages": ("onnx",), "runs": [deployment], "timed": True}
    timed = job.value(list[FrontendChoice], stage, facts, choices, **options)
    table = [replace(row, choice=choose(row.forms, most)) for row in timed]
    # a card of torch is exported in the first form; an ONNX file may have any of them
    return Fitted({row.input: row.choice for row in table if job.card.is_onnx or row.choice != next(iter(several[row.input]))}, table)


def untimed(job: Job) -> Fitted:
    """What is taken where nothing is to be timed: the last form of every input that has several, which is the smallest."""
    several = {name: forms for name, part in modalities(job.card).items() if len(forms := part.frontend_forms()) > 1}
    return Fitted({name: list(forms)[-1] for name, forms in several.items()})


def _timed(
    job: Job, deployment: Deployment, forbid: frozenset[str], name: str, forms: Mapping[str, list[Op]], folder: Path
) -> FrontendChoice:
    """Each form in every float type that the graph may run in: which form wins depends on it."""
    from edgemm.graph import files
    from edgemm.graph.frontend import alone

    choices = deployment.plugin().choices(forbid=forbid)
    by_type = {choice.get("precision", "f32"): choice for choice in reversed(choices)}  # of each type the first choice
    stem = slugs(job.card.inputs)[name]
    models = {form: files.save(alone(job.card, name, form), folder / f"{stem}.{form}.onnx") for form in forms}
    candidates = {
        form: [Candidate(f"{form} {kind}", "float", deployment.holding(model).running(options)) for kind, options in by_type.items()]
        for form, model in models.items()
    }
    feed = {name: samples(job, 1)[0][name]}

    def tried(launches: int) -> dict[str, FormTried]:
        timings = time_candidates(
            [candidate for each in candidates.values() for candidate in each], feed,
            rounds=ROUNDS, calls=CALLS, seconds=SECONDS, warmup_s=0.2, launches=launches, cold=False,
        )  # fmt: skip
        return {form: _tried([timings[c.name] for c in candidates[form]], models[form].stat().st_size) for form in forms}

    shown = tried(1)
    if not is_clear(shown):
        shown = tried(LAUNCHES)
    return FrontendChoice(name, choose(shown), shown, deployment.target)


def _tried(timings: Sequence[Timing], size: int) -> FormTried:
    """A form at its fastest, or why it cannot run."""
    shown = [(percentiles(timing.samples_ms, [50])[0], timing.precision_ran) for timing in timings if timing.error is None]
    if shown:
        p50, precision = min(shown, key=lambda figure: figure[0].value)
        return FormTried(size, Interval(p50.value, p50.low, p50.high), precision)
    error = next(timing.error for timing in timings if timing.error is not None)
    return FormTried(size, error=f"{error.what} {error.why}".strip())


def choose(forms: Mapping[str, FormTried], most: float = math.inf) -> str:
    """The smallest of those that are as good as the fastest; where none could be timed the first, which is the graph's own.

    Args:
        most: Bytes; a larger one counts only where it is the smallest.
    """
    smallest = min((form.bytes for form in forms.values() if form.ms), default=0)
    timed = {name: form.ms.value for name, form in forms.items() if form.ms and form.bytes <= max(most, smallest)}
    near = [name for name, ms in timed.items() if ms <= CLOSE * min(timed.values())]
    return min(near, key=lambda name: forms[name].bytes) if near else next(iter(forms))


def _why(row: FrontendChoice) -> str:
    """Fastest, or taken for its size."""
    taken, fastest = row.forms[row.choice].ms, min(form.ms.value for form in row.forms.values() if form.ms)
    return "the fastest" if taken is None or taken.value <= CLOSE * fastest else "the smallest, as the size asked for wants,"


def is_clear(forms: Mapping[str, FormTried]) -> bool:
    """Whether the fastest is so by more than processes of one form differ."""
    fastest, *others = sorted(form.ms.value for form in forms.values() if form.ms) or [0.0]
    return all(ms > CLEARLY * fastest for ms in others)


def _prove(before: Any, after: Any, rows: Sequence[Mapping[str, np.ndarray]], forms: Mapping[str, str]) -> None:
    from edgemm.graph.parity import EXPORT_TOLERANCE, compare, run_reference

    (expected, count), (reformed, _) = (run_reference(graph, rows) for graph in (before, after))
    far = {name: off for name, off in compare(expected, reformed).items() if off.relative > EXPORT_TOLERANCE}
    if far:
        name, off = next(iter(far.items()))
        raise ParityError(
            f"the front-end in another form ({', '.join(f'{key}: {form}' for key, form in forms.items())}) changes output '{name}'.",
            why=f"it is off by {off.max_abs:.3g} at a scale of {off.scale:.3g}, on {count} samples.",
            fix="please report the card's features.",
        )
