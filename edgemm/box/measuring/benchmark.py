"""The one benchmark: forms timed against each other, scored, held against budgets, and made a report of.

``edgemm benchmark`` does all of it here, on this machine or on another one; ``edgemm compress`` times, scores and assembles by the same
functions, and keeps in its cache what they found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.devices import exclusive
from edgemm.box.devices.environment import environment
from edgemm.box.devices.power import open_meter
from edgemm.box.measuring import disturbed
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.candidates import Contender, Prepare, resolve_all
from edgemm.box.measuring.findings import Findings
from edgemm.box.measuring.gated import through_gates
from edgemm.box.measuring.schedule import time_candidates
from edgemm.box.measuring.scores import accuracy
from edgemm.box.measuring.sustained import at_pace, limits, throughput
from edgemm.box.measuring.timed import Timed, identity, shown_by
from edgemm.contracts.report import Report, Verdict, judge
from edgemm.contracts.report_parts import Details
from edgemm.contracts.specs import BATCH
from edgemm.contracts.task import scored_outputs
from edgemm.data.dataset import open_dataset, synthetic
from edgemm.errors import MeasureError
from edgemm.progress import Progress
from edgemm.store.artifact import sha256_file, sha256_of


def benchmark(
    given: Sequence[str | Path],
    options: BenchmarkOptions,
    *,
    data: str | Path | None = None,
    prepare: Prepare | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure candidates against each other, each in a process of its own, in interleaved rounds.

    Args:
        given: Candidates as ``candidates.resolve`` takes them.
        data: The dataset: accuracy on its test split, on the target itself. Without it the report says what the samples were.
        prepare: As for ``candidates.resolve``.

    Returns:
        The report; its notes say why of a candidate nothing could be measured.

    Raises:
        EdgemmError: A candidate cannot be opened; candidates with different inputs or labels; nothing at all could be measured.
    """
    progress = progress or Progress()
    contenders = resolve_all(given, options.target, prepare=prepare)
    _require_alike(contenders)
    with exclusive.measuring(partial(_tell, progress)) as waited:
        return _measured(contenders, options, data, progress, () if waited else disturbed.busy(disturbed.load()))


def _tell(progress: Progress, text: str) -> None:
    progress.note(text)
    progress.update(text)


def _measured(
    contenders: Sequence[Contender], options: BenchmarkOptions, data: str | Path | None, progress: Progress, busy: Sequence[str]
) -> Report:
    """All that is to be measured of them; ``busy``: what is to be known of the machine as it was before."""
    forms = _distinct(contenders)
    feed, unreal = _feed(contenders, data, options.seed)
    with progress.stage("timing"):
        timings = timing(forms, feed, options, progress)
    failures, failed = _failures(contenders, timings)
    measured = [form for form in forms if timings[form.name].error is None]
    timed = shown_by(measured, timings)
    notes = [*busy, *unreal, *(note for contender in contenders for note in contender.notes), *failed]
    lost = [
        identity(form) for contender in contenders for form in contender.candidates if form.name in timings and timings[form.name].error
    ]
    title = " and ".join(dict.fromkeys(Path(contender.given).name for contender in contenders))
    first = Findings((), {"failures": failures, "not_measured": lost, "title": title}, [*notes, *timed.warnings])
    further = _further(contenders, measured, timed, feed, data, options, progress)
    report = assemble(measured, timed, [first, *further])
    return Report(report.environment, report.measurements, _budgets(contenders, measured, report), report.details)


def timing(forms: Sequence[Candidate], feed: Mapping[str, np.ndarray], options: BenchmarkOptions, progress: Progress) -> dict[str, Timing]:
    """Time the forms as the options say."""
    return time_candidates(forms, feed, progress=progress.update, **options.timing())


def assemble(forms: Sequence[Candidate], timed: Timed, findings: Sequence[Findings]) -> Report:
    """The report of what was found, without verdicts.

    Args:
        forms: What was timed; the compressed one among them is the one whose layers are shown.
        findings: What else was found, in the order its notes are told; details of a later one override.
    """
    versions = {key: value for form in forms if not form.is_command for key, value in form.deployment.versions().items()}
    main = next((form for form in forms if form.subject == "bundle"), forms[0])
    parts: dict[str, Any] = {
        "latency_samples_ms": {name: list(shown.samples_ms) for name, shown in timed.forms.items()},
        "ratios": list(timed.ratios),
        "disturbances": {name: shown.disturbance for name, shown in timed.forms.items() if shown.disturbance},
        "warnings": list(timed.warnings),
        "timeline": list(timed.timeline),
        "energy": open_meter()[1],
        "layers": timed.forms[main.name].layers,
    }
    for finding in findings:
        parts |= finding.details
    parts["notes"] = [note for finding in findings for note in finding.notes]
    measurements = [*timed.measurements(), *(measurement for finding in findings for measurement in finding.measurements)]
    return Report(environment(versions), measurements, (), Details(**parts))


def _further(
    contenders: Sequence[Contender], forms: Sequence[Candidate], timed: Timed, feed: Mapping[str, np.ndarray], data: str | Path | None,
    options: BenchmarkOptions, progress: Progress,
) -> Iterator[Findings]:  # fmt: skip
    """What is measured beyond calls back to back, each where it is asked for."""
    ran = timed.precisions()
    if data is not None:
        yield accuracy(contenders, forms, ran, data=data, limit=options.limit, skip_bad_rows=options.skip_bad_rows, progress=progress)
    if any(form.subject == "bundle" and form.source for form in forms):
        yield through_gates(forms, ran, contenders[0].card, data, options, progress)
    if options.pace:
        yield at_pace(contenders, forms, ran, feed, options, progress)
    if options.streams or options.batches:
        yield throughput(forms, ran, feed, options, progress)
    if options.roofline:
        main = next((form for form in forms if form.subject == "bundle"), forms[0])
        yield limits(main, next(contender.card for contender in contenders if contender.given == main.source), feed, progress)


def _budgets(contenders: Sequence[Contender], forms: Sequence[Candidate], report: Report) -> list[Verdict]:
    """Every contender's own budgets, held against what was measured of it."""
    verdicts = []
    for contender in contenders:
        targets = sorted({form.target for form in forms if form.source == contender.given})
        own = [measurement for measurement in report.measurements if measurement.candidate == contender.given]
        verdicts += judge(contender.budgets, own, targets, scored_outputs(contender.card))
    return verdicts


def _require_alike(contenders: Sequence[Contender]) -> None:
    """Raises MeasureError unless all candidates take the same inputs and answer the same questions."""
    first = contenders[0]
    for other in contenders[1:]:
        for kind, ours, theirs in (
            ("inputs", first.input_facts(), other.input_facts()),
            ("outputs and labels", first.output_facts(), other.output_facts()),
        ):
            if ours is None or theirs is None or ours == theirs:
                continue
            differ = sorted(name for name in {*ours, *theirs} if not _may_be_one(ours.get(name), theirs.get(name)))
            if not differ:
                continue
            name = differ[0]
            raise MeasureError(
                f"'{first.given}' and '{other.given}' cannot be compared: their {kind} differ.",
                why=f"'{name}' is {ours.get(name, 'absent')} in the first and {theirs.get(name, 'absent')} in the second.",
                fix="benchmark candidates made from one card; measure others one by one.",
            )


def _may_be_one(ours: str | None, theirs: str | None) -> bool:
    """Whether two descriptions can be of one thing: the same, a free batch and one of 1, or one of them does not know the labels."""
    if not ours or not theirs:
        return ours == theirs
    ours, theirs = (re.sub(r"^\(1\b", f"({BATCH}", words) for words in (ours, theirs))
    return ours == theirs or ours.startswith(f"{theirs} of ") or theirs.startswith(f"{ours} of ")


def _distinct(contenders: Sequence[Contender]) -> list[Candidate]:
    """All forms to measure; a float graph that several candidates share is measured once."""
    forms: dict[tuple[str, ...], Candidate] = {}
    for contender in contenders:
        for form in contender.candidates:
            shared = form.subject in ("float", "default")
            key = (form.subject, sha256_file(form.model), sha256_of(form.deployment.key())) if shared else (form.name,)
            forms.setdefault(key, form)
    return list(forms.values())


def _feed(contenders: Sequence[Contender], data: str | Path | None, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """One sample that all candidates are timed on, and a note where it is none of the user's."""
    if data is not None:
        dataset = open_dataset(data, contenders[0].card)
        split = next((name for name in ("test", "val", "train") if name in dataset.splits()), "test")
        return next(iter(dataset.batches(split, 1, limit=1))).inputs, []
    golden = next((contender.golden for contender in contenders if contender.golden), None)
    if golden is not None:
        return dict(golden), ["No data was given: timed on a golden sample of the bundle, accuracy was not measured."]
    sample = next(iter(synthetic(contenders[0].card, samples=1, seed=seed).batches("test", 1))).inputs
    return sample, [f"No data was given: timed on a synthetic sample (seed {seed}), accuracy was not measured."]


def _failures(contenders: Sequence[Contender], timings: Mapping[str, Timing]) -> tuple[list[str], list[str]]:
    """The candidates of which nothing could be measured, and a note for every form that failed.

    Raises:
        EdgemmError: A form's own error, where nothing at all could be measured.
    """
    if all(timing.error for timing in timings.values()):
        raise next(timing.error for timing in timings.values() if timing.error)
    lost = []
    for contender in contenders:
        own = [timings[form.name] for form in contender.candidates if form.name in timings]
        if own and all(timing.error for timing in own):
            lost.append(contender.given)
    notes = []
    for name, timing in timings.items():
        if timing.error is not None:
            notes.append(f"{name} was not measured: {timing.error.what} {timing.error.why}".strip())
        elif not timing.warm:
            notes.append(f"{name} did not become steady while warming up; its figures may be too high.")
    return lost, notes
