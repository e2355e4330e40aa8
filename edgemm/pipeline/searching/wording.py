"""What was tried, in a line each: for the log, the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.contracts.interval import show_interval
from edgemm.contracts.search_parts import ANSWERED, OnFront, Tried
from edgemm.pipeline.searching.goal import Goal

COSTS = {"size_mib": "MiB", "latency_p50_ms": "ms (p50)", "latency_p95_ms": "ms (p95)"}


def line(tried: Tried, goal: Goal) -> str:
    """``trial 7 (prune.macs_ratio 0.5): digit lost 1.2 points [0.4, 2], 0.45 MiB: keeps the budgets``; the same on every run."""
    options = f" ({words(tried.options)})" if tried.options else ""
    fidelity = "" if tried.fidelity is None else f" at {tried.fidelity}"
    figures = ", ".join([*_losses(tried), *(f"{value:.3g} {COSTS[name]}" for name, value in tried.costs.items() if name in COSTS)])
    if tried.state != ANSWERED:
        return f"{tried.name}{options}{fidelity}: {tried.state}{f', {figures}' if figures else ''}: {' '.join(tried.why.split())}"
    missed = goal.missed(tried)
    verdict = f": misses {'; '.join(missed)}" if missed else ": keeps the budgets" if goal.limits else ""
    return f"{tried.name}{options}{fidelity}: {figures}{verdict}"


def on_front(one: OnFront) -> str:
    """One of the best: what it lost over its trainings, and what it costs."""
    spread = f" {show_interval(one.points.low, one.points.high)} over {len(one.seeds)} trainings" if len(one.seeds) > 1 else ""
    figures = "".join(f", {value:.3g} {COSTS[name]}" for name, value in one.costs.items() if name in COSTS)
    missed = f"; misses {'; '.join(one.missed)}" if one.missed else ""
    options = f" ({words(one.best.options)})" if one.best.options else ""
    return f"{one.best.name}{options}: lost {one.points.value:.3g} points on val{spread}{figures}{missed}"


def words(options: Mapping[str, Any]) -> str:
    """Options and their values."""
    return ", ".join(f"{name} {'null' if value is None else value}" for name, value in options.items())


def _losses(tried: Tried) -> list[str]:
    return [f"{name} lost {loss.value:.3g} {loss.unit} {show_interval(loss.low, loss.high)}".strip() for name, loss in tried.losses.items()]
