"""Latency at a pace: what a camera at 10 hz sees, instead of calls back to back.

Between two frames caches cool down, threads fall asleep and the clock falls: a paced call may take twice as long.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.process import WorkerProcess
from edgemm.box.measuring.statistics import percentiles, spread_of
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement
from edgemm.errors import EdgemmError, MeasureError, nearest

ROUNDS = 4
LEAST_STEPS = 5  # a round
SHARES = (50, 95, 99)
MILLIJOULES = "mJ"  # a step; at a pace it is told an hour
RATE = re.compile(r"(?P<rate>\d+(\.\d+)?)\s*hz", re.IGNORECASE)


@dataclass(frozen=True)
class Paced:
    """What one candidate showed at the pace, one entry a round; ``how`` is ``split`` or ``whole``."""

    rounds: tuple[Mapping[str, Any], ...] = ()
    how: str = "whole"
    error: EdgemmError | None = None


def parse_pace(words: str, card: Card) -> dict[str, float]:
    """Input -> rate in hz, of ``5hz`` or ``image=10hz,audio=1hz`` (an input's name or a modality's; what is not named runs at the slowest).

    Raises:
        MeasureError: It cannot be read, or names what the card lacks.
    """
    rates: dict[str, float] = {}
    for part in words.split(","):
        name, _, rate = part.strip().rpartition("=")
        match = RATE.fullmatch(rate.strip())
        if not match or float(match["rate"]) <= 0:
            raise MeasureError(
                f"the pace '{words}' cannot be read.", why=f"'{part.strip()}' is no rate.", fix="write 5hz, or image=10hz,audio=1hz."
            )
        of = [key for key, spec in card.inputs.items() if name in ("", key, spec.modality)]
        if not of:
            names = {*card.inputs, *(spec.modality for spec in card.inputs.values())}
            raise MeasureError(f"the pace names '{name}', which is no input of the model.", fix=nearest(name, names))
        rates |= dict.fromkeys(of, float(match["rate"]))
    return {name: rates.get(name, min(rates.values())) for name in card.inputs}


def time_paced(
    candidates: Sequence[Candidate],
    feed: Mapping[str, np.ndarray],
    rates_hz: Mapping[str, float],
    *,
    parts: Mapping[str, Path] | None = None,
    seconds: float = 20.0,
    limit_s: float = 300.0,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Paced]:
    """Time the candidates at a pace, each in a process of its own, in interleaved rounds.

    Args:
        rates_hz: Input -> how often it is new.
        parts: Candidate -> ``split.json`` of its graph in parts. One that has none runs whole at the fastest rate, on inputs that are
            partly old.
        seconds: For one candidate.
    """
    order, tell = random.Random(seed), progress or (lambda text, share: None)
    steps = max(LEAST_STEPS, int(seconds * max(rates_hz.values()) / ROUNDS))
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, ExitStack() as stack:
        file = Path(scratch) / "feed.npz"
        np.savez(file, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
        workers: dict[str, WorkerProcess] = {}
        paced: dict[str, Paced] = {}
        for candidate in candidates:
            worker = stack.enter_context(WorkerProcess(candidate.name, times=True))
            try:
                paced[candidate.name] = Paced(how=_open(worker, candidate, file, (parts or {}).get(candidate.name), limit_s))
                workers[candidate.name] = worker
            except EdgemmError as err:
                paced[candidate.name] = Paced(error=err)
        for number in range(ROUNDS):
            names = sorted(workers)
            order.shuffle(names)
            for position, name in enumerate(names):
                tell(f"{name} at its pace", (number + position / len(names)) / ROUNDS)
                try:
                    answer = workers[name].ask("pace", limit_s=limit_s + seconds, rates_hz=dict(rates_hz), steps=steps)
                    paced[name] = Paced((*paced[name].rounds, answer), paced[name].how)
                except EdgemmError as err:
                    paced[name] = Paced(error=err)
                    workers.pop(name).stop()
    return paced


def paced_measurements(paced: Paced) -> list[Measurement]:
    """Latency at the pace with its jitter, how late steps began, what was dropped, and what the probes that watch paces saw."""
    calls = [round_["latency_ms"] for round_ in paced.rounds if round_["latency_ms"]]
    if not calls:
        return []
    count = sum(map(len, calls))
    measured = [
        Measurement(f"paced_p{share}_ms", value.value, "ms", low=value.low, high=value.high, n=count)
        for share, value in zip(SHARES, percentiles(calls, SHARES), strict=True)
    ]
    measured.append(Measurement("paced_max_ms", max(map(max, calls)), "ms", n=count))
    steps = [float(np.abs(np.diff(round_)).mean()) for round_ in calls if len(round_) > 1]
    measured += [Measurement("paced_jitter_ms", spread_of(steps).value, "ms", n=count)] if steps else []
    late = np.concatenate([round_["late_ms"] for round_ in paced.rounds])
    measured.append(Measurement("paced_late_p95_ms", float(np.percentile(late, 95)), "ms", n=count))
    measured.append(Measurement("paced_dropped", float(sum(round_["dropped"] for round_ in paced.rounds)), "steps", n=count))
    for probe in paced.rounds[0]["samples"]:
        samples = [round_["samples"][probe] for round_ in paced.rounds]
        for shown in plugins.load(Probe, probe).summarise(samples):
            if shown.unit != MILLIJOULES:
                measured.append(replace(shown, name=f"paced_{shown.name}", n=count))
            elif None not in samples:
                measured.append(
                    Measurement(f"{shown.name.removesuffix('_mj')}_j_per_hour", _joules_an_hour(paced.rounds, samples), "J/h", n=count)
                )
    return measured


def _joules_an_hour(rounds: Sequence[Mapping[str, Any]], samples_mj: Sequence[float]) -> float:
    """Of steps that took so many millijoules each, the time between them included."""
    joules: float = sum(sample_mj * len(round_["latency_ms"]) / 1e3 for round_, sample_mj in zip(rounds, samples_mj, strict=True))
    hours: float = sum(round_["seconds"] for round_ in rounds) / 3600
    return joules / hours


def _open(worker: WorkerProcess, candidate: Candidate, feed: Path, parts: Path | None, limit_s: float) -> str:
    """Open a candidate whole or in parts, and say which."""
    if parts is None:
        worker.ask("open", limit_s=limit_s, **candidate.opening(feed))
        return "whole"
    worker.ask("open_parts", limit_s=limit_s, parts=str(parts), **candidate.opening(feed))
    return "split"
