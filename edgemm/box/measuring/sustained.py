"""What `edgemm benchmark` measures beyond calls back to back: paces, throughput, limits of the box."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.devices.peaks import peaks
from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.candidates import Named
from edgemm.box.measuring.measurements import about
from edgemm.box.measuring.pacing import paced_measurements, parse_pace, time_paced
from edgemm.box.measuring.roofline import audit, profile, roofline, save_feed
from edgemm.box.measuring.throughput import throughputs
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.report import Measurement
from edgemm.errors import EdgemmError
from edgemm.progress import Progress
from edgemm.store.machine import usable_cores

Found = tuple[list[Measurement], dict[str, Any], list[str]]
"""Measurements, details of the report, notes."""


def at_pace(
    words: str, things: Sequence[Named], rows: Sequence[Candidate], timings: Mapping[str, Timing], feed: Mapping[str, np.ndarray],
    seconds: float, seed: int, progress: Progress,
) -> Found:  # fmt: skip
    """Every candidate at the pace ``words`` asks for.

    Raises:
        MeasureError: The pace cannot be read.
    """
    rates = parse_pace(words, things[0].card)
    several = len(set(rates.values())) > 1
    parts = {name: path for thing in things for name, path in thing.parts.items()} if several else {}
    with progress.stage("pace"):
        found = time_paced(rows, feed, rates, parts=parts, seconds=seconds, seed=seed, progress=progress.update)
    measured: list[Measurement] = []
    notes: list[str] = []
    for row in rows:
        paced = found[row.name]
        if paced.error is not None:
            notes.append(f"{row.name} was not measured at its pace: {paced.error.what} {paced.error.why}".strip())
            continue
        measured += about(row, timings[row.name].precision_ran, paced_measurements(paced))
    whole = [row.name for row in rows if several and found[row.name].error is None and found[row.name].how == "whole"]
    if whole:
        fastest = f"{max(rates.values()):g} times a second, on inputs partly old"
        notes.append(f"No split graphs, so at the pace these ran whole, {fastest}: {', '.join(whole)}.")
    told = {"rates_hz": rates, "how": {row.name: found[row.name].how for row in rows if found[row.name].error is None}}
    return measured, {"pace": told}, notes


def throughput(
    rows: Sequence[Candidate], timings: Mapping[str, Timing], feed: Mapping[str, np.ndarray], batches: Sequence[int],
    streams: Sequence[int], seed: int, progress: Progress,
) -> Found:  # fmt: skip
    """Samples a second of every combination; the best one is a measurement."""
    with progress.stage("throughput"):
        table = throughputs(rows, feed, batches=batches, streams=streams, seed=seed, progress=progress.update)
    measured: list[Measurement] = []
    for row in rows:
        known = [entry for entry in table if entry["candidate"] == row.name and entry["per_s"]]
        if known:
            best = max(known, key=lambda entry: entry["per_s"])
            value = Measurement("throughput_per_s", best["per_s"], "1/s", "higher", low=best["low"], high=best["high"])
            measured += about(row, timings[row.name].precision_ran, [value])
    order = {row.name: place for place, row in enumerate(rows)}
    table.sort(key=lambda entry: (order[entry["candidate"]], entry["batch"], entry["streams"]))
    notes = [
        f"{entry['candidate']}: no throughput at batch {entry['batch']} and {entry['streams']} streams: {entry['error']}"
        for entry in table
        if entry["error"]
    ]
    return measured, {"throughput": table}, notes


def limits(row: Candidate, card: Card, feed: Mapping[str, np.ndarray], progress: Progress) -> Found:
    """One candidate's branches against the box's peaks, and its wasteful layers; a note where that cannot be told."""
    if row.artifact.suffix != ".onnx":
        return [], {}, [f"{row.name}: no roofline: branches are found in an ONNX file only."]
    try:
        with progress.stage("roofline"), tempfile.TemporaryDirectory(prefix="edgemm-") as scratch:
            layers = profile(row, save_feed(feed, Path(scratch)))
            if not any(layer.time_us for layer in layers):
                return [], {}, [f"{row.name}: no roofline: {row.target} tells no times of layers."]
            progress.update("peaks of this machine", 0.5)
            box = peaks(_threads(row))
            rows = roofline(row.artifact, card, layers, box)
            wasteful = audit(row.artifact, layers, row.precision_asked or "")
    except ModuleNotFoundError as err:
        return [], {}, [f"{row.name}: no roofline: {plugins.missing_extra(err, 'finding branches').what}"]
    except EdgemmError as err:
        return [], {}, [f"{row.name}: no roofline: {err.what} {err.why}".strip()]
    notes = [f"The peaks of this machine were measured while {', '.join(box.disturbed)}: they are too low."] if box.disturbed else []
    return [], {"roofline": rows, "audit": wasteful, "peaks": box.to_dict(), "layers": [vars(layer) for layer in layers]}, notes


def _threads(row: Candidate) -> int:
    """Threads a candidate runs on: what its options say, else all cores."""
    return int(row.options.get("threads") or row.target_options.get("threads") or usable_cores())
