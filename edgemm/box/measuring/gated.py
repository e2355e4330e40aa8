"""What gates save: the test split and a recording answered with a bundle's gates and without, call by call.

A gated decision takes one of two times: that of the answer without the branch, or that of both. So each hump is told by itself, with the
mean of all, beside decisions that run every branch. The scheduler's half; ``gated_rows`` and ``gated_stream`` are the worker's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.measuring.answers import read_files
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.findings import Findings
from edgemm.box.measuring.measurements import about
from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Measurement
from edgemm.contracts.timing_parts import Gated, Hump
from edgemm.errors import BundleError, MeasureError, nearest
from edgemm.progress import Progress

SKIPPED, PASSED, ALL, WITHOUT = "skipped", "passed", "all", "without gates"
SHARE = re.compile(r"(?P<label>.+)=(?P<share>0?\.\d+|0|1)")


def through_gates(
    forms: Sequence[Candidate], ran: Mapping[str, str], card: Card, data: str | Path | None, options: BenchmarkOptions, progress: Progress
) -> Findings:
    """What gates save on the test split and on the recording that the options name; nothing of bundles that have none.

    Raises:
        MeasureError: A recording is given and no bundle has gates, or the label of empty moments is none.
    """
    able = [(form, bundle) for form in forms if form.subject == "bundle" and (bundle := _with_gates(form)) is not None]
    if not able and options.stream:
        raise MeasureError(
            "--stream plays a recording through a bundle's gates, and no candidate has gates.",
            fix="compress with gates in the recipe, or leave out --stream; edgemm run --fast plays a recording as it is.",
        )
    empty = _empty(options.empty, card) if options.empty else None
    rows: list[Gated] = []
    notes: list[str] = []
    measured: list[Measurement] = []
    with progress.stage("gates"):
        for form, bundle in able:
            own = [_of_rows(form, card, str(data), options, empty, progress)] if data is not None else []
            own += [_of_stream(form, bundle, options)] if options.stream else []
            rows += own
            measured += [m for row in own for m in about(form, ran[form.name], _measurements(row))]
            if data is not None and empty is None:
                notes.append(
                    f"{form.name}: through its gates went the test split as it is; --empty LABEL=SHARE weighs it as a place is, where most "
                    "moments are empty."
                )
    return Findings(measured, {"gated": rows} if rows else {}, notes)


def _with_gates(form: Candidate) -> Bundle | None:
    """A bundle whose form this is, where it has gates that can be kept."""
    try:
        bundle = open_bundle(form.source)
    except BundleError:  # a graph by itself
        return None
    has_parts = any(name.startswith((f"targets/{form.target}/split/",)) for name in bundle.files)
    return bundle if has_parts and bundle.gates(form.target) else None


def _empty(words: str, card: Card) -> tuple[str, int, float]:
    """The output, the number of its label, and the share of moments that it stands for.

    Raises:
        MeasureError: They cannot be read.
    """
    match = SHARE.fullmatch(words.strip())
    known = {label: (name, number) for name, output in card.outputs.items() for number, label in enumerate(output.labels or ())}
    if match is None or not 0 < float(match["share"]) < 1:
        raise MeasureError(f"--empty {words} cannot be read.", fix="write a label and its share of all moments, such as quiet=0.9.")
    if match["label"] not in known:
        raise MeasureError(f"--empty names '{match['label']}', which is no label of the model.", fix=nearest(match["label"], known))
    return *known[match["label"]], float(match["share"])


def _of_rows(
    form: Candidate, card: Card, data: str, options: BenchmarkOptions, empty: tuple[str, int, float] | None, progress: Progress
) -> Gated:
    """The test split, a row at a time, with gates and without."""
    with tempfile.TemporaryDirectory(prefix="edgemm-") as name, WorkerProcess(form.name) as worker:
        scratch = Path(name)
        worker.ask(
            "gated", limit_s=600.0, progress=lambda rows: progress.update(f"{form.name}, {rows} rows", 0.5), bundle=form.source,
            target=form.target, data=data, card=card.to_dict(), card_path=str(card.path) if card.path else None, limit=options.limit,
            skip_bad_rows=options.skip_bad_rows, out=name, **_where(form),
        )  # fmt: skip
        gated, whole = (read_files(scratch / side) for side in ("gated", "whole"))
        with np.load(scratch / "times.npz") as file:
            times = dict(file)
        weights = _weights(whole, empty, len(times["gated_ms"]))
        return _summed(form, "test rows", times, weights, _lost(card, gated, whole), empty[2] if empty else None)


def _of_stream(form: Candidate, bundle: Bundle, options: BenchmarkOptions) -> Gated:
    """A recording, as ``edgemm run --fast`` plays it, with gates and without."""
    with tempfile.TemporaryDirectory(prefix="edgemm-") as name, WorkerProcess(form.name) as worker:
        worker.ask("gated", limit_s=3600.0, bundle=form.source, target=form.target, stream=options.stream, out=name, **_where(form))
        with np.load(Path(name) / "times.npz") as file:
            times = dict(file)
    return _summed(form, Path(str(options.stream)).name, times, np.ones(len(times["gated_ms"])), {}, None)


def _where(form: Candidate) -> dict[str, Any]:
    return {"cpus": form.opening(None)["cpus"]}


def _weights(whole: Answers, empty: tuple[str, int, float] | None, rows: int) -> np.ndarray:
    """How much each row counts, so that empty moments have their share.

    Raises:
        MeasureError: The test split has no such moment, or no other.
    """
    if empty is None:
        return np.ones(rows)
    name, number, share = empty
    is_empty = np.asarray(whole.truth[name]).reshape(rows) == number
    if not 0 < is_empty.sum() < rows:
        raise MeasureError(
            f"--empty: {int(is_empty.sum())} of {rows} test rows are such moments.",
            why="both kinds are needed.",
            fix="name another label, or leave out --empty.",
        )
    weights: np.ndarray = np.where(is_empty, share / is_empty.sum(), (1 - share) / (~is_empty).sum()) * rows
    return weights


def _lost(card: Card, gated: Answers, whole: Answers) -> dict[str, Interval]:
    """Output -> what the gates cost of it on these rows, in points (a regression's: hundredths of its spread)."""
    lost = {}
    for name in tasks.scored_outputs(card):
        task, truth = tasks.of(card.outputs[name]), whole.truth.get(name)
        if task.has_truth and truth is None:
            continue
        drop = task.measure(whole.predictions, truth).drop(task.measure(gated.predictions, truth))
        point = drop.per_point or 1.0
        low, high = (None if end is None else end / point for end in (drop.low, drop.high))
        lost[name] = Interval(drop.value / point, low, high)
    return lost


def _summed(
    form: Candidate, where: str, times: Mapping[str, np.ndarray], weights: np.ndarray, lost: Mapping[str, Interval], empty: float | None
) -> Gated:
    any_skipped: np.ndarray = np.asarray(times["skipped"].any(axis=1))
    sides = {SKIPPED: any_skipped, PASSED: ~any_skipped, ALL: np.ones(any_skipped.shape, np.bool_)}
    humps = {word: _hump(times["gated_ms"][own], times["gated_cpu_ms"][own], weights[own], weights) for word, own in sides.items()}
    whole = np.ones(len(times["whole_ms"])) if len(times["whole_ms"]) != len(weights) else weights
    humps[WITHOUT] = _hump(times["whole_ms"], times["whole_cpu_ms"], whole, whole)
    names = [str(name) for name in times["gated"]]
    shares = {name: float(np.average(times["skipped"][:, place], weights=weights)) for place, name in enumerate(names)}
    apart = float(np.average(times["apart"], weights=weights)) if len(times["apart"]) == len(weights) else float(times["apart"].mean())
    run = [float(times[key]) for key in ("run_cpu_s", "run_cpu_without_s") if key in times]
    return Gated(form.name, where, len(any_skipped), shares, humps, apart, lost, empty, *run)


def _hump(ms: np.ndarray, cpu_ms: np.ndarray, weights: np.ndarray, of: np.ndarray) -> Hump:
    """One of the two times of a gated decision, or all of them."""
    if not len(ms):
        return Hump(0.0)
    order = np.argsort(ms)
    at = np.cumsum(weights[order]) / weights.sum()
    p50, p95 = (float(ms[order][min(len(ms) - 1, int(np.searchsorted(at, share)))]) for share in (0.5, 0.95))
    means = [float(np.average(values, weights=weights)) for values in (ms, cpu_ms)]
    return Hump(float(weights.sum() / of.sum()), p50, p95, *means)


def _measurements(row: Gated) -> list[Measurement]:
    """The means; where a recording was played these, else those of the rows."""
    prefix = "gated" if row.where == "test rows" else "stream"
    every, without = row.humps[ALL], row.humps[WITHOUT]
    of = {"mean_ms": every.mean_ms, "p50_ms": every.p50_ms, "p95_ms": every.p95_ms, "cpu_ms": every.cpu_ms}
    measured = [Measurement(f"{prefix}_{key}", value, "ms", n=row.decisions) for key, value in of.items() if value is not None]
    measured.append(Measurement(f"{prefix}_cpu_ratio", every.cpu_ms / max(without.cpu_ms, 1e-9), "ratio", n=row.decisions))
    skipped = [
        Measurement(f"{prefix}_skipped_ratio", share, "ratio", "higher", branch=name, n=row.decisions)
        for name, share in row.skipped.items()
    ]
    return [*measured, *skipped]
