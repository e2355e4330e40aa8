"""`edgemm benchmark`: measure candidates side by side, or compare two reports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.devices.environment import environment
from edgemm.box.devices.power import open_meter
from edgemm.box.measuring import disturbed
from edgemm.box.measuring.busy import busy, load
from edgemm.box.measuring.candidates import Named, resolve, says_nothing
from edgemm.box.measuring.measurements import drawn, measurements, ratios
from edgemm.box.measuring.schedule import LAUNCHES, Candidate, Timing, time_candidates
from edgemm.box.measuring.scores import accuracy
from edgemm.box.measuring.sustained import Found, at_pace, limits, throughput
from edgemm.box.remote.benchmark import measure_there
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.report import Measurement, Report, judge, read
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import Target
from edgemm.data.dataset import open_dataset, synthetic
from edgemm.errors import MeasureError
from edgemm.pipeline import stages
from edgemm.progress import Progress
from edgemm.report import comparison, page
from edgemm.report.comparison import Comparison
from edgemm.report.terminal import Ending
from edgemm.store.artifact import require_writable, sha256_file

ROUNDS = 16  # two for each launch


def benchmark(
    candidates: Sequence[str | Path] = (),
    *,
    data: str | Path | None = None,
    target: str | None = None,
    output: str | Path | None = None,
    pace: str | None = None,
    streams: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    roofline: bool = True,
    rounds: int = ROUNDS,
    calls: int = 40,
    seconds: float = 20.0,
    launches: int = LAUNCHES,
    limit: int | None = None,
    seed: int = 0,
    skip_bad_rows: bool = False,
    remote: str | None = None,
    setup: bool = False,
    fallback: bool = False,
    ssh_config: str | Path | None = None,
    compare: tuple[str | Path, str | Path] | None = None,
    progress: Progress | None = None,
) -> Report | Comparison:
    """Measure candidates against each other, each in a process of its own, in interleaved rounds.

    A bundle is measured on each of its targets that can run here, beside its float graph forced to f32 and as the runtime runs that
    by itself; an ONNX file on each target that can run here; a model card in torch.

    Args:
        candidates: Bundles, ONNX files, model cards, OpenVINO IR files, TensorRT plans, ``torch-compile:CARD``,
            ``command:WORDS``; the first is what the others are held against.
        data: The dataset: accuracy on its test split, on the target itself. Without it the report says what the samples were.
        target: Measure on this target only.
        output: Folder for report.json and report.html.
        pace: Also measure calls at this pace: ``5hz``, or ``image=10hz,audio=1hz``.
        streams: Also measure the throughput of so many parallel streams.
        batches: Also measure the throughput of so many samples a call; with ``streams`` in every combination.
        roofline: Tell how near the first candidate's branches come to the box's peaks, and which layers waste time.
        rounds: Timed rounds; candidates take turns in each.
        calls: Timed calls of a candidate in a round.
        seconds: Most seconds of timed calls for one candidate.
        launches: Processes of each candidate that share the rounds, each with a cold start; 0 = one, and no cold start.
        limit: Accuracy on so many first rows of the test split only.
        seed: Of the order within rounds, and of synthetic samples.
        skip_bad_rows: Leave out rows that cannot be read; the report counts them.
        remote: Measure one bundle on another machine, ``ssh://user@host:port``; only numpy and a runtime need to be there.
        setup: With ``remote``: first make a virtual environment there with what is missing.
        fallback: With ``remote``: where none of the bundle's runtimes is there, measure its graph in ONNX Runtime, and say so.
        ssh_config: With ``remote``: ssh's configuration file instead of the user's own.
        compare: Measure nothing: hold the second report.json against the first.

    Returns:
        The report. ``report.missed`` holds the budgets of the candidates' recipes that were missed, ``report.details["failures"]`` the
        candidates of which nothing could be measured; the notes say why. With ``compare`` a ``Comparison``: what got worse beyond the
        noise, and ``missed`` holds the regressions.

    Raises:
        EdgemmError: A candidate cannot be opened; candidates with different inputs or labels; nothing at all could be measured.
    """
    if compare is not None:
        return comparison.compare(*(read(Path(report)) for report in compare))
    if not candidates:
        raise MeasureError("no candidate was given.", fix="name bundles, ONNX files or model cards.")
    progress = progress or Progress()
    place = Path(output) if output else None
    if remote is not None:
        options = {
            "target": target, "pace": pace, "streams": streams, "batches": batches, "roofline": roofline, "rounds": rounds,
            "calls": calls, "seconds": seconds, "launches": launches, "limit": limit, "seed": seed,
        }  # fmt: skip
        return measure_there(
            candidates, remote, data=data, output=place, options=options, setup=setup, fallback=fallback,
            config=Path(ssh_config) if ssh_config else None, skip_bad_rows=skip_bad_rows, progress=progress,
        )  # fmt: skip
    if place:
        require_writable(place / "report.json")
    things = _resolved(candidates, target)
    _require_alike(things)
    before = load()
    rows = _distinct(things)
    feed, notes = _feed(things, data, seed)
    notes = busy(before) + notes + [note for thing in things for note in thing.notes]
    with progress.stage("timing"):
        timings = time_candidates(
            rows, feed, rounds=rounds, calls=calls, seconds=seconds, launches=launches, seed=seed, progress=progress.update
        )
    failures, said = _failures(things, timings)
    notes += said + disturbed.notes(timings)
    measured = [row for row in rows if timings[row.name].error is None]
    found = [m for row in measured for m in measurements(row, timings[row.name])]
    details: dict[str, Any] = {"failures": failures}
    for scores, more, said in _further(
        things, measured, timings, feed, data, limit, skip_bad_rows, pace, streams, batches, roofline, seconds, seed, progress
    ):
        found, details, notes = found + scores, details | more, notes + said
    report = _report(things, measured, timings, found, {**details, "notes": notes})
    if place:
        _write(report, place)
    return report


def ending(report: Report | Comparison, *, output: str | None = None, **_: Any) -> Ending:
    """What the command line says at the end."""
    written = (Path(output),) if output else ()
    return Ending(report, written, f"open {Path(output) / 'report.html'} in a browser" if output else "", report=report)


def _resolved(candidates: Sequence[str | Path], target: str | None) -> list[Named]:
    """All candidates; those that do not say what they take get the card of the first one that does."""
    known = {place: resolve(given, target, prepare=_prepare) for place, given in enumerate(candidates) if not says_nothing(given)}
    card = next((thing.card for thing in known.values()), None)
    return [known.get(place) or resolve(given, target, card=card) for place, given in enumerate(candidates)]


def _further(
    things: Sequence[Named], measured: Sequence[Candidate], timings: Mapping[str, Timing], feed: Mapping[str, np.ndarray],
    data: str | Path | None, limit: int | None, skip_bad_rows: bool, pace: str | None, streams: Sequence[int] | None,
    batches: Sequence[int] | None, roofline: bool, seconds: float, seed: int, progress: Progress,
) -> Iterator[Found]:  # fmt: skip
    """What is measured beyond calls back to back, each where it is asked for."""
    if data is not None:
        yield accuracy(things, measured, timings, data, limit, skip_bad_rows, progress)
    if pace:
        yield at_pace(pace, things, measured, timings, feed, seconds, seed, progress)
    if streams or batches:
        yield throughput(measured, timings, feed, batches or (1,), streams or (1,), seed, progress)
    if roofline:
        main = next((row for row in measured if row.subject == "bundle"), measured[0])
        yield limits(main, next(thing.card for thing in things if thing.given == main.source), feed, progress)


def _prepare(given: Path) -> tuple[Path, Card]:
    """The graph that every other command makes of an ONNX file, and its card."""
    job = stages.start(given, None)
    return stages.export(job).main, job.card


def _require_alike(things: Sequence[Named]) -> None:
    """Raises MeasureError unless all candidates take the same inputs and answer the same questions."""
    first = things[0]
    for other in things[1:]:
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


def _distinct(things: Sequence[Named]) -> list[Candidate]:
    """All forms to measure; a float graph that several candidates share is measured once."""
    rows: dict[tuple[str, ...], Candidate] = {}
    for thing in things:
        for row in thing.candidates:
            shared = row.subject in ("float", "default")
            rows.setdefault((row.subject, row.target, sha256_file(row.artifact)) if shared else (row.name,), row)
    return list(rows.values())


def _feed(things: Sequence[Named], data: str | Path | None, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """One sample that all candidates are timed on, and a note where it is none of the user's."""
    if data is not None:
        dataset = open_dataset(data, things[0].card)
        split = next((name for name in ("test", "val", "train") if name in dataset.splits()), "test")
        return next(iter(dataset.batches(split, 1, limit=1))).inputs, []
    golden = next((thing.golden for thing in things if thing.golden), None)
    if golden is not None:
        return dict(golden), ["No data was given: timed on a golden sample of the bundle, accuracy was not measured."]
    made = next(iter(synthetic(things[0].card, samples=1, seed=seed).batches("test", 1))).inputs
    return made, [f"No data was given: timed on a synthetic sample (seed {seed}), accuracy was not measured."]


def _failures(things: Sequence[Named], timings: Mapping[str, Timing]) -> tuple[list[str], list[str]]:
    """The candidates of which nothing could be measured, and a note for every form that failed.

    Raises:
        EdgemmError: A form's own error, where nothing at all could be measured.
    """
    if all(timing.error for timing in timings.values()):
        raise next(timing.error for timing in timings.values() if timing.error)
    lost = []
    for thing in things:
        shown = [timings[row.name] for row in thing.candidates if row.name in timings]
        if shown and all(timing.error for timing in shown):
            lost.append(thing.given)
    notes = []
    for name, timing in timings.items():
        if timing.error is not None:
            notes.append(f"{name} was not measured: {timing.error.what} {timing.error.why}".strip())
        elif not timing.warm:
            notes.append(f"{name} did not become steady while warming up; its figures may be too high.")
    return lost, notes


def _report(
    things: Sequence[Named],
    measured: Sequence[Candidate],
    timings: Mapping[str, Timing],
    found: list[Measurement],
    details: dict[str, Any],
) -> Report:
    here = [plugins.find(Target, row.target)(**row.target_options) for row in measured if row.target != "command"]
    versions = {key: value for target in here for key, value in target.versions().items()}
    after = next((row for row in measured if row.subject == "bundle"), measured[0])
    summary = disturbed.summary(timings)
    details |= {
        "not_measured": [_about(row) for thing in things for row in thing.candidates if row.name in timings and timings[row.name].error],
        "title": " and ".join(dict.fromkeys(Path(thing.given).name for thing in things)),
        "latency_samples_ms": {row.name: drawn(timings[row.name]) for row in measured},
        "ratios": list(ratios(measured, timings)),
        "disturbances": {row.name: {**summary[row.name], **_about(row)} for row in measured},
        "warnings": disturbed.notes(timings),
        "timeline": disturbed.timeline(timings),
        "energy": open_meter()[1],
        "layers": details.get("layers") or [vars(layer) for layer in timings[after.name].layers],
    }
    budgets = []
    for thing in things:
        targets = {row.target for row in measured if row.source == thing.given}
        of_thing = [m for m in found if m.candidate == thing.given]
        budgets += judge(thing.budgets, of_thing, sorted(targets), thing.guarded())
    return Report(environment(versions), found, budgets, details)


def _about(row: Candidate) -> dict[str, str]:
    """How the report names a form."""
    return {"source": row.source or row.name, "target": row.target, "subject": row.subject}


def _write(report: Report, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "report.html").write_text(page.render(report), encoding="utf-8")
    report.save(place / "report.json")
