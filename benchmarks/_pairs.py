"""Two candidates held against each other as `edgemm benchmark` does it with its defaults, again and again: what it claims, how often."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.measuring.benchmark_options import ROUNDS
from edgemm.box.measuring.disturbed import is_disturbed
from edgemm.box.measuring.schedule import Candidate, time_candidates
from edgemm.box.measuring.statistics import ratio
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment

PLANTED = Path(__file__).resolve().with_name("_planted_target.py")


def opened(path: str) -> tuple[Bundle, dict[str, Any]]:
    """A bundle that holds a graph for OpenVINO, and a golden sample of it."""
    bundle = open_bundle(Path(path))
    golden = bundle.golden()
    assert golden is not None, "the bundle holds no golden sample"
    return bundle, dict(golden.sample(0))


def itself(bundle: Bundle) -> tuple[Candidate, Candidate]:
    """The same engine twice."""
    return _engine(bundle, "one", "openvino"), _engine(bundle, "other", "openvino")


@contextmanager
def planted(bundle: Bundle) -> Iterator[tuple[Candidate, Candidate]]:
    """The engine with every call made slower by a share of its own time, and the engine. Workers find the slower in a copy of edgemm."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # a worker looks for edgemm where it is started
        copy = shutil.copytree(plugins.ROOT, Path(folder) / plugins.ROOT.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PLANTED, copy / "targets" / "planted.py")
        yield _engine(bundle, "slower", "planted"), _engine(bundle, "plain", "openvino")


def _engine(bundle: Bundle, name: str, target: str) -> Candidate:
    model = bundle.target_model("openvino").resolve()
    return Candidate(name, "bundle", Deployment(target, model, runtime_options={"threads": 1, "precision": "f32"}))


def once(pair: tuple[Candidate, Candidate], feed: dict[str, Any], seed: int) -> dict[str, Any]:
    """One benchmark of the pair: the first one's ratio to the second, what is claimed, whether the run was flagged."""
    began = time.perf_counter()
    timings = time_candidates(pair, feed, rounds=ROUNDS, seed=seed)
    first, second = (timings[candidate.name].require() for candidate in pair)
    found = ratio(first.samples_ms, second.samples_ms, launches=first.launches)
    flagged = is_disturbed(first) or is_disturbed(second)
    told = {"value": found.value, "low": found.low, "high": found.high, "verdict": found.verdict, "flagged": flagged}
    told |= {"repeated": sum(not turn.kept for timing in (first, second) for turn in timing.turns), "seconds": time.perf_counter() - began}
    print(
        f"{seed:3d} ", *(f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()), flush=True
    )
    return told


def many(
    pair: tuple[Candidate, Candidate], feed: dict[str, Any], runs: int, *, around: Callable[[int], Any] | None = None
) -> list[dict[str, Any]]:
    """``runs`` benchmarks of the pair; ``around(number)`` is a context each of them runs in."""
    found = []
    for number in range(runs):
        with around(number) if around else nullcontext():
            found.append(once(pair, feed, number))
    return found


def figures(runs: list[dict[str, Any]], claimed: str | None) -> dict[str, Any]:
    """Counts: how many runs claimed ``claimed`` (None = any difference), how many were flagged, and the rows themselves, short."""
    hits = [run["verdict"] == claimed if claimed else run["verdict"] != "no difference shown" for run in runs]
    rows = [f"{run['value']:.3f} [{run['low']:.3f}, {run['high']:.3f}] {run['verdict']}{', flagged' * run['flagged']}" for run in runs]
    return {
        "runs": len(runs), "claimed": sum(hits), "flagged": sum(run["flagged"] for run in runs),
        "claimed_unflagged": sum(hit and not run["flagged"] for hit, run in zip(hits, runs, strict=True)),
        "unflagged": sum(not run["flagged"] for run in runs), "rows": rows,
    }  # fmt: skip
