"""What runs on a node of a Ray cluster: one trial after the other, each in the process of ``runners.LocalRunner``. Knows nothing of Ray."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.contracts import stage_code
from edgemm.errors import EdgemmError
from edgemm.pipeline.job import start
from edgemm.pipeline.searching.runners import MODULE, LocalRunner, Outcome, Task
from edgemm.store import cache
from edgemm.store.carried import Carried, carried, put

TOKEN = ".seen"
"""Folder of the cache with a file for each driver: who sees it, shares the cache."""
_runners: dict[tuple[Any, ...], LocalRunner] = {}
"""Of this process: what its trials are about, and the process that runs them."""


@dataclass(frozen=True)
class Here:
    """What a node is.

    Attributes:
        code: Digest of what a trial runs.
        sees_cache: Whether the driver's cache is there, at the same path.
        problem: Why it cannot run trials; "" where it can.
    """

    version: str
    python: str
    code: str
    sees_cache: bool
    problem: str = ""


@dataclass(frozen=True)
class Delivery:
    """What came of a task, and what was made for it that the driver lacks.

    Attributes:
        outcome: A graph's model is a path below the node's cache.
        root: That cache.
        made: By name in the cache.
    """

    outcome: Outcome
    root: str
    made: Carried

    def of(self, root: Path) -> Outcome:
        """The outcome with its graph in the cache ``root``."""
        graph = self.outcome.graph
        if graph is None or str(root) == self.root:
            return self.outcome
        model = root / graph.deployment.model.relative_to(self.root)
        return replace(self.outcome, graph=replace(graph, deployment=graph.deployment.holding(model)))


def hello(token: str, opening: Mapping[str, Any]) -> Here:
    """What this node is.

    Args:
        token: A file in the driver's cache.
        opening: As ``LocalRunner`` takes it.
    """
    problem = ""
    try:
        start(opening["card"], opening["data"], skip_bad_rows=opening["skip_bad_rows"])
    except EdgemmError as err:
        problem = f"{err.what} {err.why}".strip()
    return Here(__version__, platform.python_version(), stage_code.of(MODULE).digest, Path(token).is_file(), problem)


def trial(opening: Mapping[str, Any], threads: int, task: Task, root: str | None, sent: Carried | None, known: frozenset[str]) -> Delivery:
    """Run one task; once more where its process died.

    Args:
        opening: As ``LocalRunner`` takes it.
        root: The cache that all share; None = this node has one of its own.
        sent: What the driver has used itself, where the cache is not shared.
        known: Names of all that the driver has.
    """
    os.environ |= {"EDGEMM_CACHE": root} if root else {}
    here, runner = cache.root(), _runner(opening, threads)
    put(here, sent or {})
    outcome = runner.run([task], lambda count: None)[0]
    if outcome.crashed:
        outcome = runner.run([task], lambda count: None)[0]
    made = carried(here, runner.used(here) - known) if root is None else {}
    return Delivery(outcome, str(here), made)


def _runner(opening: Mapping[str, Any], threads: int) -> LocalRunner:
    key = (*opening.values(), threads, str(cache.root()))
    if key not in _runners:
        while _runners:  # of an earlier search: a node has no memory for two
            with suppress(EdgemmError):
                _runners.popitem()[1].__exit__(None, None, None)
        _runners[key] = LocalRunner(**opening, workers=1, threads=threads)
    return _runners[key]
