"""Who measures: a device on which nothing else runs meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgemm.box.measuring.benchmark_options import BenchmarkOptions
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.forms import baselines, compressed
from edgemm.box.measuring.timed import Timed
from edgemm.box.measuring.tuning import Raced, settle
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import Measurement
from edgemm.pipeline.job import Job, samples
from edgemm.pipeline.preparing import forbidden
from edgemm.pipeline.searching.benches import Bench
from edgemm.pipeline.searching.goal import TIMED
from edgemm.pipeline.searching.trial import Graph
from edgemm.pipeline.torch_steps import as_before
from edgemm.store.artifact import Artifact
from edgemm.store.cache import use

OPTIONS = BenchmarkOptions()
"""How ``edgemm benchmark`` times where nobody says otherwise: so the front meets."""
HOW: Mapping[str, Any] = {"rounds": 12, "calls": 40, "seconds": 2.0, "warmup_s": 0.5, "launches": 2}
"""Timed calls of a trial's graph, and of what runs beside it."""


class Meter(Protocol):
    """Measures graphs on one device; two never at once."""

    def measure(self, deployment: Deployment, key: str, forbid: frozenset[str]) -> dict[str, float]:
        """What a graph costs, by the names of budgets.

        Args:
            deployment: The graph on its target, with the safe runtime options.
            key: Of its artifact.
            forbid: Float types that must not run.

        Raises:
            EdgemmError: It cannot be measured.
        """
        ...


class DeviceMeter:
    """Measures on a bench; on this machine while no trial runs on it.

    The original's float graph runs beside each candidate, round by round, and what the machine lost or gained since it was first timed is
    taken out: on a shared box the same graph took 0.35 ms, and 0.23 ms after a minute. What was measured here once is not measured again.

    Args:
        job, exported: The original's.
        floats: The float graph on the target.
    """

    def __init__(self, job: Job, exported: Artifact, floats: Deployment, bench: Bench) -> None:
        self._job, self._exported, self._floats, self.bench = job, exported, floats, bench
        self._raced: list[Raced] = []

    def measure(self, deployment: Deployment, key: str, forbid: frozenset[str]) -> dict[str, float]:
        tuned = self.tuned(deployment, forbid)
        beside = Candidate("float", "float", self._floats.running(self._floats.plugin().choices()[0]))
        first = self._first(beside)
        candidate = compressed(tuned, "candidate")

        def timed() -> list[Measurement]:
            forms = self.bench.timed([candidate, beside], samples(self._job, 1)[0], **HOW).forms
            pace = first / _p50_ms(forms["float"].measurements) if "float" in forms else 1.0
            return [m for m in as_before(list(forms["candidate"].measurements), pace) if m.name in TIMED]

        facts = {"graph": key, "deployment": tuned.key(), "beside": [self._exported.folder.name, beside.deployment.key()], "first": first}
        found = self._value(list[Measurement], "latency trial", facts, timed, [tuned, beside.deployment])
        return {m.name: m.value for m in found}

    def tuned(self, deployment: Deployment, forbid: frozenset[str]) -> Deployment:
        """The graph with the runtime options that it is measured with."""
        use(deployment.model.parent)
        return deployment.running(self._options(deployment, forbid))

    def tune(self, deployment: Deployment, key: str) -> None:
        """Find the runtime options that graphs of this model like best, by those of one of them; ``compress`` tunes the best ones anew."""
        use(deployment.model.parent)

        def raced() -> list[Raced]:
            return self.bench.race(deployment, samples(self._job, 1)[0])

        facts = {"graph": key, "deployment": deployment.key()}
        self._raced = self._value(list[Raced], "tune trials", facts, raced, [deployment])

    def _first(self, beside: Candidate) -> float:
        """What the float graph took when it was first timed here."""

        def timed() -> float:
            return _p50_ms(self.bench.timed([beside], samples(self._job, 1)[0], **HOW).forms["float"].measurements)

        facts = {"graph": self._exported.folder.name, "deployment": beside.deployment.key()}
        return float(self._value(float, "latency float", facts, timed, [beside.deployment]))

    def _options(self, deployment: Deployment, forbid: frozenset[str]) -> dict[str, Any]:
        """The fastest options that the graph may run with; without a race, or where it ran with none of these, the safe ones."""
        allowed = deployment.plugin().choices(forbid=forbid)
        raced = [row for row in self._raced if row.speed_ms is not None and dict(row.tried.options) in allowed]
        return settle(deployment.target, raced).options if raced else dict(deployment.runtime_options)

    def _value(self, kind: Any, name: str, facts: dict[str, Any], compute: Any, runs: Sequence[Deployment]) -> Any:
        facts = {**facts, "data": self._job.fingerprint, **({"device": dict(self.bench.facts)} if self.bench.facts else {})}
        return self._job.value(kind, name, facts, compute, steps=(), runs=runs, timed=True)


@dataclass(frozen=True)
class SideBySide:
    """The front in one benchmark: the candidates, and what they showed."""

    candidates: Sequence[Candidate]
    timed: Timed

    def costs(self, name: str) -> dict[str, float]:
        """What one of the front showed, by the names of budgets and others."""
        shown = self.timed.forms.get(name)
        return {} if shown is None else {m.name: m.value for m in shown.measurements}


def side_by_side(job: Job, floats: Deployment, front: Mapping[str, tuple[Recipe, Graph]], meter: DeviceMeter) -> SideBySide:
    """Time the front against each other and the float graph, in interleaved rounds over several processes of each.

    Args:
        job: The original's.
        floats: Its float graph on the target.
        front: Name -> its recipe, and what it came to.
    """
    candidates = [compressed(meter.tuned(graph.deployment, forbidden(recipe)), name) for name, (recipe, graph) in front.items()]
    candidates = [replace(candidate, source=candidate.name) for candidate in candidates] + baselines(floats)

    def timed() -> Timed:
        return meter.bench.timed(candidates, samples(job, 1)[0], **OPTIONS.timing())

    facts = {
        "front": {name: graph.key for name, (_, graph) in front.items()},
        "deployments": [candidate.deployment.key() for candidate in candidates],
        "model": job.identity,
        "data": job.fingerprint,
        **({"device": dict(meter.bench.facts)} if meter.bench.facts else {}),
    }
    runs = [candidate.deployment for candidate in candidates]
    return SideBySide(candidates, job.value(Timed, "benchmark front", facts, timed, steps=(), runs=runs, timed=True))


def _p50_ms(measured: Sequence[Measurement]) -> float:
    return next(m.value for m in measured if m.name == "latency_p50_ms")
