"""In the worker: a recording played as ``edgemm run --fast`` plays it, with a bundle's gates and without, in turns."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.measuring.gated_rows import save
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.contracts.decision import Decision
from edgemm.errors import MeasureError

TURNS = (False, True, True, False)  # with gates; what a machine does meanwhile hits both alike


@dataclass
class _Played:
    """Decisions of one turn: wall and processor milliseconds, what was skipped, what leads at which moment."""

    times: list[tuple[float, float]] = field(default_factory=list)
    skipped: list[tuple[str, ...]] = field(default_factory=list)
    leads: dict[float, tuple[Any, ...]] = field(default_factory=dict)
    cpu_s: float = 0.0


def run_gated_stream(bundle: str, target: str, stream: str, out: str) -> dict[str, Any]:
    """Write ``times.npz`` as ``gated_rows`` does, a number a decision, with the processor seconds of both whole runs.

    Raises:
        MeasureError: The recording gives no decision.
        RunError: It cannot be played.
    """
    opened = open_bundle(bundle)
    gated = [gate.run for gate in opened.gates(target)]
    turns = [(with_gates, _play(opened, target, stream, with_gates)) for with_gates in TURNS]
    if not all(played.times for _, played in turns):
        raise MeasureError(
            f"the recording '{stream}' gives no decision.", fix="give a folder with all inputs of the model, longer than a window."
        )
    times: dict[str, list[Any]] = {"gated": [], "whole": [], "skipped": [], "apart": []}
    cpu = {True: 0.0, False: 0.0}
    for with_gates, played in turns:
        times["gated" if with_gates else "whole"] += played.times
        times["skipped"] += [[name in skipped for name in gated] for skipped in played.skipped] if with_gates else []
        cpu[with_gates] += played.cpu_s
    plain, through = turns[0][1].leads, turns[1][1].leads
    times["apart"] = [plain[at] != lead for at, lead in through.items() if at in plain]
    save(Path(out), times, gated, run_cpu_s=cpu[True] / 2, run_cpu_without_s=cpu[False] / 2)
    return {"decisions": len(times["gated"])}


def _play(bundle: Bundle, target: str, stream: str, with_gates: bool) -> _Played:
    place = Path(stream)
    kind = {"folder": {"path": stream}} if place.is_dir() else {"stream": {"url": stream}}
    source = {name: {**options, "inputs": list(bundle.card.inputs)} for name, options in kind.items()}
    plain = {"target": target, "sources": [source], "gates": {"use": with_gates}}
    runner = Runner(bundle, parse(plain, bundle.card, where="--stream"), fast=True)
    played, step = _Played(), runner.engine.step

    def stepped(now: float, **more: Any) -> Decision | None:
        began, cpu = time.perf_counter(), time.process_time()
        decision = step(now, **more)
        if decision is not None:
            played.times.append(((time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3))
            played.skipped.append(decision.skipped)
            played.leads[round(decision.at_s, 3)] = tuple(_lead(reading.scores, reading.value) for reading in decision.readings.values())
        return decision

    runner.engine.step = stepped  # type: ignore[method-assign]  # what a step takes is what is asked for here
    cpu = time.process_time()
    runner.run(threading.Event())
    played.cpu_s = time.process_time() - cpu
    return played


def _lead(scores: Any, value: float | None) -> Any:
    return max(scores, key=scores.__getitem__) if scores else None if value is None else float(np.round(value, 3))
