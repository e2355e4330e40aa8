"""``precision: auto``: each branch alone, timed on the target in every precision the target has; only what gains is quantized.

Under ``method: weights`` its weights alone in few bits are timed too, and the fewest that are not slower beyond doubt are taken: they are
there for the memory.

A branch alone is its part of the split graph, in processes of their own, in interleaved rounds. INT8 is taken where the interval of its
ratio to the fastest float lies below 1; else the branch stays in float, in the short float type where the target has one, and so do the
boundaries between branches: no quantizer is put there for the float side. Fusion and heads are one part and decided together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgemm.box.measuring.schedule import Candidate, Timing, time_candidates
from edgemm.box.measuring.statistics import percentiles, ratio
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import DEFAULT, Step
from edgemm.contracts.timing_parts import PrecisionChoice
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.stages import quantize
from edgemm.store.artifact import Artifact

AUTO, INT8 = "auto", "int8"
WEIGHTS, PACKED = "weights", "w"
"""The quantize step's method that keeps activations in float, and what begins the words of its precisions."""
WORDS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
"""A runtime's word for a float type -> a recipe's."""
REST = "fusion and heads"
GAINS_NOTHING = "INT8 is not shown to be faster here. It would still make the file smaller: set precision: {default: int8} for that."
SECONDS, ROUNDS, CALLS, LAUNCHES = 1.5, 12, 40, 3
"""Timed calls of each candidate; from three launches on the interval holds how much processes of one candidate differ."""


@dataclass(frozen=True)
class Decided:
    """Graph steps with every ``auto`` replaced, and why: a row a branch."""

    steps: tuple[Step, ...]
    table: Sequence[PrecisionChoice] = ()
    notes: Sequence[str] = ()


def decide(
    job: Job,
    exported: Artifact,
    steps: Sequence[Step],
    deployment: Deployment,
    *,
    forbid: frozenset[str],
    trained: bool = False,
) -> Decided:
    """Replace ``auto`` in the quantize step's precision.

    Args:
        exported: The float graph.
        deployment: Which target, and its options.
        forbid: Float types that must not run.
        trained: Whether Q/DQ was trained into the graph already: which layers are INT8 is decided then.
    """
    written = tuple(normal(step) for step in steps)
    by_selector: dict[str, str] = next((step.options["precision"] for step in written if step.quantizes), {})
    if AUTO not in by_selector.values():
        return Decided(written)
    forms = _forms(written)
    whole = {form: _with(written, {key: form if word == AUTO else word for key, word in by_selector.items()}) for form in forms}
    name = deployment.target
    reason = deployment.plugin().cannot_run() or ("training decided what is quantized." if trained else "")
    if reason:
        return Decided(whole[forms[-1]], notes=[f"{name}: precision auto is {_word(forms[-1])} everywhere: {reason}"])
    quantized = {form: quantize(job, exported, steps, name) for form, steps in whole.items()}
    choices = _timed(job, exported, quantized, deployment, forbid)
    by_branch = _wanted(exported, job, {DEFAULT: forms[-1]} | by_selector)
    table = [
        replace(choices[branch if branch in choices else REST], target=name, branch=branch)
        for branch, word in by_branch.items()
        if word == AUTO
    ]
    chosen = {**by_branch, **{row.branch: row.choice for row in table}}
    notes = [] if {*forms} & {*chosen.values()} else [f"{name}: precision auto quantized nothing: {GAINS_NOTHING}"]
    return Decided(_with(written, chosen), table, notes)


def _forms(steps: Sequence[Step]) -> list[str]:
    """What ``auto`` stands for, that of the step's method last; more bits than it asks for too, for where few are slow."""
    options = next(step.options for step in steps if step.quantizes)
    packed = [f"{PACKED}{bits}" for bits in (8, 4) if bits >= options["bits"]] if options.get("method") == WEIGHTS else []
    return [INT8, *packed]


def _word(form: str) -> str:
    return form.upper() if form == INT8 else form


def normal(step: Step) -> Step:
    """A graph step with its defaults written out, so that two that mean the same share what the cache holds."""
    options = {key: option.default for key, option in plugins.options("steps", step.name).items() if not option.required}
    options |= dict(step.options)
    if step.quantizes:
        precision = options.get("precision")
        options["precision"] = {DEFAULT: precision} if isinstance(precision, str) else dict(precision or {})
        options.pop("on_miss", None)
    return replace(step, options=options)


def _with(steps: Sequence[Step], precision: Mapping[str, str]) -> tuple[Step, ...]:
    changed = [{**step.options, "precision": dict(precision)} if step.quantizes else step.options for step in steps]
    return tuple(replace(step, options=options) for step, options in zip(steps, changed, strict=True))


def _wanted(exported: Artifact, job: Job, by_selector: Mapping[str, str]) -> dict[str, str]:
    """Branch -> the precision that a recipe's mapping gives it; what is named later overrides, the default comes first."""
    from edgemm.graph import files
    from edgemm.graph.branches import find_branches

    branches = find_branches(files.frame(exported.main), job.card)
    by_branch = dict.fromkeys(branches.names(), by_selector[DEFAULT])
    for selector, word in by_selector.items():
        if selector != DEFAULT:
            by_branch |= dict.fromkeys(branches.select(selector, job.card), word)
    return by_branch


def _timed(
    job: Job, exported: Artifact, quantized: Mapping[str, Artifact], deployment: Deployment, forbid: frozenset[str]
) -> dict[str, PrecisionChoice]:
    """Part -> its choice.

    Args:
        quantized: Form -> the whole graph in it.
    """

    def choices() -> dict[str, PrecisionChoice]:
        with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
            parts = _parts(job, exported, quantized, Path(scratch))
            chosen = {}
            for number, (part, (floats, others, feed)) in enumerate(parts.items()):
                job.show(f"timing {part}", number / len(parts))
                chosen[part] = _choose(floats, others, feed, deployment, forbid)
            return chosen

    facts = {
        "graph": exported.folder.name,
        "quantized": {form: graph.folder.name for form, graph in quantized.items()},
        "deployment": deployment.key(),
        "forbid": sorted(forbid),
        "data": job.fingerprint,
    }
    name = f"precision {deployment.target}"
    kind = dict[str, PrecisionChoice]
    return job.value(kind, name, facts, choices, steps=(), packages=("onnx",), runs=[deployment], timed=True)


def _parts(
    job: Job, exported: Artifact, quantized: Mapping[str, Artifact], folder: Path
) -> dict[str, tuple[Path, dict[str, Path], dict[str, np.ndarray]]]:
    """Part -> its float graph, its graph in each form in which something of it is quantized, and one sample for it."""
    from edgemm.graph import files, parity
    from edgemm.graph.back_to_float import quantized_readers
    from edgemm.graph.split import split

    model = files.load(exported.main)
    floats = split(model, job.card)
    others = {form: split(files.load(graph.main), job.card, like=model) for form, graph in quantized.items()}
    feed = dict(samples(job, 1)[0])
    parts = {}
    for number, (part, graph) in enumerate({**floats.branches, REST: floats.rest}.items()):
        path, by_form = files.save(graph, folder / f"{number}.float.onnx"), dict[str, Path]()
        for form, other in others.items():
            own = other.rest if part == REST else other.branches.get(part)
            if own is not None and quantized_readers(own):
                by_form[form] = files.save(own, folder / f"{number}.{form}.onnx")
        input_names = {value.name for value in graph.graph.input}
        inputs = {key: array for key, array in feed.items() if key in input_names}
        parts[part] = (path, by_form, inputs)
        if part != REST:
            session = parity.reference_session(graph)
            names = [value.name for value in session.get_outputs()]
            feed |= dict(zip(names, session.run(names, inputs), strict=True))
    return parts


def _choose(
    floats: Path, others: Mapping[str, Path], feed: Mapping[str, np.ndarray], deployment: Deployment, forbid: frozenset[str]
) -> PrecisionChoice:
    """Time one part in every precision and choose."""
    choices = deployment.plugin().choices(forbid=forbid)
    types = list(dict.fromkeys(choice.get("precision", "f32") for choice in choices))
    short = WORDS[types[-1]]

    def candidate(word: str, model: Path, float_type: str, asked: str) -> Candidate:
        options = {**choices[0], **({"precision": float_type} if "precision" in choices[0] else {})}
        return Candidate(word, "bundle", deployment.holding(model).running(options), asked)

    candidates = [candidate(WORDS[word], floats, word, word) for word in types]
    if not others:
        return PrecisionChoice({}, short, "it has no layer that is quantized.")
    candidates += [candidate(form, model, types[-1], f"{form}+{types[-1]}") for form, model in others.items()]
    timings = time_candidates(candidates, feed, rounds=ROUNDS, calls=CALLS, seconds=SECONDS, warmup_s=0.3, launches=LAUNCHES, cold=False)
    return choose(timings, short)


def choose(timings: Mapping[str, Timing], short: str) -> PrecisionChoice:
    """What one part gets, and why: the fastest form that is beyond doubt faster than float; else weights alone in as few bits as
    were asked and are not slower; else float.

    Args:
        timings: By precision, rounds side by side.
        short: The shortest float type that the target has: what a branch that is not quantized may run in.
    """
    table = {word: percentiles(timing.samples_ms, [50])[0] for word, timing in timings.items() if timing.error is None}
    floats = [word for word in table if word in WORDS.values()]
    forms = [word for word in table if word not in floats]
    if not forms or not floats:
        error = next(timing.error for timing in timings.values() if timing.error is not None)
        left = short if floats else INT8 if INT8 in forms else forms[0] if forms else INT8
        return PrecisionChoice(table, left, f"could not be timed: {error.what} {error.why}".strip())
    best = min(floats, key=lambda word: table[word].value)
    gains = {form: ratio(timings[form].samples_ms, timings[best].samples_ms, launches=timings[form].launches) for form in forms}
    by_time = sorted(forms, key=lambda form: table[form].value)
    winner = next((form for form in by_time if gains[form].verdict == "faster"), "")
    packed = [form for form in forms if form.startswith(PACKED) and gains[form].verdict != "slower"]
    smaller = min(packed, key=lambda form: int(form.removeprefix(PACKED)), default="")
    form = winner or smaller or by_time[0]
    gain = gains[form]
    interval = "" if gain.low is None or gain.high is None else f" [{gain.low:.2f}, {gain.high:.2f}]"
    sentence = f"{_word(form)} takes {gain.value:.2f}{interval} of the time of {best}"
    if winner or smaller:
        return PrecisionChoice(table, form, f"{sentence}." if winner else f"{sentence}: it is smaller, and not shown to be slower.")
    return PrecisionChoice(table, short, f"{sentence}: no gain is shown.")
