"""What `edgemm benchmark` measures beyond calls back to back: paces, throughput, limits of the box."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemm.box.devices.peaks import peaks
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.candidates import Contender
from edgemm.box.measuring.findings import Findings
from edgemm.box.measuring.measurements import about
from edgemm.box.measuring.pacing import paced_measurements, parse_pace, time_paced
from edgemm.box.measuring.roofline import audit, profile, roofline, save_feed
from edgemm.box.measuring.throughput import throughputs
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.report import Measurement
from edgemm.contracts.timing_parts import Pace
from edgemm.errors import EdgemmError
from edgemm.progress import Progress
from edgemm.store.machine import usable_cores


def at_pace(
    contenders: Sequence[Contender], forms: Sequence[Candidate], ran: Mapping[str, str], feed: Mapping[str, np.ndarray],
    options: BenchmarkOptions, progress: Progress,
) -> Findings:  # fmt: skip
    """Every form at the pace that the options ask for.

    Raises:
        MeasureError: The pace cannot be read.
    """
    rates = parse_pace(options.pace or "", contenders[0].card)
    several = len(set(rates.values())) > 1
    parts = {name: path for contender in contenders for name, path in contender.parts.items()} if several else {}
    with progress.stage("pace"):
        paces = time_paced(forms, feed, rates, parts=parts, seconds=options.seconds, seed=options.seed, progress=progress.update)
    measured: list[Measurement] = []
    notes: list[str] = []
    for form in forms:
        paced = paces[form.name]
        if paced.error is not None:
            notes.append(f"{form.name} was not measured at its pace: {paced.error.what} {paced.error.why}".strip())
            continue
        measured += about(form, ran[form.name], paced_measurements(paced))
    how = {form.name: paces[form.name].how for form in forms if paces[form.name].error is None}
    whole = [name for name, word in how.items() if several and word == "whole"]
    if whole:
        fastest = f"{max(rates.values()):g} times a second, on inputs partly old"
        notes.append(f"No split graphs, so at the pace these ran whole, {fastest}: {', '.join(whole)}.")
    return Findings(measured, {"pace": Pace(rates, how)}, notes)


def throughput(
    forms: Sequence[Candidate], ran: Mapping[str, str], feed: Mapping[str, np.ndarray], options: BenchmarkOptions, progress: Progress
) -> Findings:
    """Samples a second of every combination of batches and streams; the best one is a measurement."""
    batches, streams = options.batches or (1,), options.streams or (1,)
    with progress.stage("throughput"):
        table = throughputs(forms, feed, batches=batches, streams=streams, seed=options.seed, progress=progress.update)
    measured: list[Measurement] = []
    for form in forms:
        rates = [(row.per_s, row.low, row.high) for row in table if row.candidate == form.name and row.per_s]
        if rates:
            per_s, low, high = max(rates, key=lambda figures: figures[0])
            value = Measurement("throughput_per_s", per_s, "1/s", "higher", low=low, high=high)
            measured += about(form, ran[form.name], [value])
    order = {form.name: index for index, form in enumerate(forms)}
    table.sort(key=lambda row: (order[row.candidate], row.batch, row.streams))
    notes = [f"{row.candidate}: no throughput at batch {row.batch} and {row.streams} streams: {row.error}" for row in table if row.error]
    return Findings(measured, {"throughput": table}, notes)


def limits(form: Candidate, card: Card, feed: Mapping[str, np.ndarray], progress: Progress) -> Findings:
    """One form's branches against the box's peaks, and its wasteful layers; a note where that cannot be told."""
    if form.model.suffix != ".onnx":
        return Findings(notes=[f"{form.name}: no roofline: branches are found in an ONNX file only."])
    try:
        with progress.stage("roofline"), tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
            layers = profile(form, save_feed(feed, Path(scratch)))
            if not any(layer.time_us for layer in layers):
                return Findings(notes=[f"{form.name}: no roofline: {form.target} tells no times of layers."])
            progress.update("peaks of this machine", 0.5)
            box = peaks(_threads(form))
            rows = roofline(form.model, card, layers, box)
            wasteful = audit(form.model, layers, form.precision_asked or "")
    except ModuleNotFoundError as err:
        return Findings(notes=[f"{form.name}: no roofline: {plugins.missing_extra(err, 'finding branches').what}"])
    except EdgemmError as err:
        return Findings(notes=[f"{form.name}: no roofline: {err.what} {err.why}".strip()])
    notes = [f"The peaks of this machine were measured while {', '.join(box.disturbed)}: they are too low."] if box.disturbed else []
    details = {"roofline": rows, "audit": wasteful, "peaks": box, "layers": layers}
    return Findings((), details, notes)


def _threads(form: Candidate) -> int:
    """Threads a form runs on: what its options say, else all cores."""
    whole = form.deployment
    return int(whole.runtime_options.get("threads") or whole.options.get("threads") or usable_cores())
