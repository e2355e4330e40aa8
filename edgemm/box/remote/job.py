"""One job on the box: a bundle is verified and measured; where it stands is told in a file, so that nobody needs to stay connected."""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.bundle.proving import verify as verify_bundle
from edgemm.box.devices import memory, thermals
from edgemm.box.measuring.benchmark import benchmark
from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.schedule import time_candidates
from edgemm.box.measuring.timed import shown_by
from edgemm.box.remote import DATA, FALLBACK, FEED, JOB, REPORT, STATUS
from edgemm.contracts.plain_values import plain, read
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import BoxState
from edgemm.errors import EdgemmError
from edgemm.progress import Progress
from edgemm.store.artifact import write_bytes, write_json

TELL_S = 0.3
NO_SPACE = 28  # ENOSPC


class Told(Progress):
    """Writes ``status.json`` of a job's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._file, self._stage, self._said = folder / STATUS, "", 0.0
        self._notes: list[str] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        if time.monotonic() - self._said > TELL_S:
            self._tell(text, fraction)

    def note(self, text: str) -> None:
        self._notes.append(text)
        self._tell(text, None)

    def end(self, state: str, **more: Any) -> None:
        write_json(self._file, {"state": state, **more})

    def _begin(self, name: str) -> None:
        self._stage = name
        self._tell("", None)

    def _tell(self, text: str, fraction: float | None) -> None:
        self._said = time.monotonic()
        write_json(self._file, {"state": "running", "stage": self._stage, "text": text, "fraction": fraction, "notes": self._notes})


def run(folder: Path) -> int:
    """Do what ``job.json`` says, in the folder's own terms: ``{"bundle", "fallback", "options"}``, or ``{"candidates", "how"}``.

    Errors go into ``status.json``.

    Returns:
        0 when the report was written.
    """
    folder = folder.resolve()
    os.chdir(folder)
    status = Told(folder)
    try:
        job = json.loads((folder / JOB).read_bytes())
        if "candidates" in job:
            write_json(folder / REPORT, plain(time_graphs(job, status)))
        else:
            measure(job, status).save(folder / REPORT)
    except EdgemmError as err:
        status.end("failed", kind=type(err).__name__, what=err.what, why=err.why, fix=err.fix)
        return 1
    except Exception as err:  # anything at all: the other side shows it
        full = getattr(err, "errno", None) == NO_SPACE
        status.end("failed", kind="", what=traceback.format_exc(limit=-4), why="No space left on device" if full else "", fix="")
        return 1
    status.end("done")
    return 0


def measure(job: dict[str, Any], progress: Progress) -> Report:
    """Verify, then benchmark, and say what the box went through meanwhile."""
    with progress.stage("verify"):
        checked = verify_bundle(job["bundle"])
        checked.raise_if_bad()
    bundle = open_bundle(job["bundle"])
    before = thermals.look()
    with memory.Lowest() as lowest:
        if job.get("fallback"):
            report = _fallback(bundle, job, progress)
        else:
            report = benchmark([job["bundle"]], BenchmarkOptions(**job["options"]), data=_data(), progress=progress)
    after = thermals.look()
    heat = {"before": before.to_dict(), "after": after.to_dict(), "events": thermals.since(before, after)}
    verified = [vars(check) for check in checked.checks if "golden" in check.text]  # the files were all right, or we were not here
    box = BoxState(lowest.to_dict(), heat, verified)
    notes = [*report.details.notes, *thermals.told(before, after)]
    return replace(report, details=replace(report.details, box=box, notes=notes))


def time_graphs(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Time graphs against each other: ``timed`` as ``Timed``, and ``errors`` of those that could not be."""
    candidates = read(list[Candidate], job["candidates"])
    with np.load(FEED) as arrays:
        feed = dict(arrays)
    with progress.stage("timing"):
        timings = time_candidates(candidates, feed, **job["how"], progress=progress.update)
    errors = {
        name: {"what": timing.error.what, "why": timing.error.why, "fix": timing.error.fix}
        for name, timing in timings.items()
        if timing.error is not None
    }
    return {"timed": shown_by(candidates, timings), "errors": errors}


def _data() -> str | None:
    return DATA if Path(DATA).is_dir() else None


def _fallback(bundle: Bundle, job: dict[str, Any], progress: Progress) -> Report:
    """The compressed graph of the bundle's first target in ONNX Runtime, since none of its own runtimes is here; and it says so."""
    name = job["options"].get("target") or bundle.targets()[0]
    card = {**bundle.card.to_dict(), "model": str(bundle.target_model(name))}
    folder = Path("fallback") / name
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "model.yaml", yaml.safe_dump(card, sort_keys=False).encode())
    options = BenchmarkOptions(**{**job["options"], "target": FALLBACK})
    report = benchmark([str(folder / "model.yaml")], options, data=_data(), progress=progress)
    note = f"{name} cannot run on this box: its graph was measured in ONNX Runtime, as asked. These are not {name}'s figures."
    return replace(report, details=replace(report.details, notes=[note, *report.details.notes]))
