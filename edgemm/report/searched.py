"""The section of a search: the front, every trial, what explains the differences, and what stood in the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemm.contracts.report import Report
from edgemm.contracts.search_parts import ANSWERED, OnFront, Searched, Tried
from edgemm.report.charts import Dot, scatter
from edgemm.report.formatting import bounds, name_of, number, unit_of
from edgemm.report.sections import section, table

COSTS = ("size_mib", "latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "peak_rss_mib", "cold_start_ms")
DRAWN = ("size_mib", "latency_p50_ms")


def searched(report: Report) -> str:
    """What a search tried, and the best of it."""
    search = report.details.search
    if search is None:
        return ""
    return "".join(part for part in (_front(search), _importances(search), _trials(search)) if part)


def _front(search: Searched) -> str:
    blocked = f'<p class="alarm">Nothing keeps the budgets: {escape(search.blocked)}</p>' if search.blocked else ""
    about = (
        f"Best for {search.objective} on {search.target}; the first was taken. Points lost are those on val, the mean over the trainings "
        "with the least and the most of them; costs were measured side by side at the end."
    )
    costs = [name for name in COSTS if any(name in one.costs for one in search.front)]
    head = ["Model", "#Points lost", *(f"#{name_of(name)}, {unit_of(name)}" for name in costs), "Trainings", "Budgets"]
    rows = [_row(one, costs) for one in search.front]
    drawn = "".join(_drawn(search, name) for name in DRAWN)
    body = f'{blocked}{table(head, rows) if rows else ""}<div class="panels below">{drawn}</div>'
    return section("The best", about if search.front else "", body)


def _row(one: OnFront, costs: Sequence[str]) -> list[str]:
    badge = (
        f'<span class="badge doubt">✕ {escape("; ".join(one.missed))}</span>' if one.missed else '<span class="badge good">✓ kept</span>'
    )
    figures = [number(one.costs[name]) if name in one.costs else "" for name in costs]
    lost = f"{number(one.points.value)}{bounds(one.points) if len(one.seeds) > 1 else ''}"
    return [_named(one.best), lost, *figures, str(len(one.seeds)), badge]


def _drawn(search: Searched, cost: str) -> str:
    """Every answered trial by what it costs and what it lost; those of the front stand out."""
    best = {one.best.name for one in search.front}
    dots = [
        Dot(
            tried.costs[cost], tried.points, f"{tried.name}: {number(tried.points)} points, {number(tried.costs[cost])}", tried.name in best
        )
        for tried in search.trials
        if tried.state == ANSWERED and tried.points is not None and cost in tried.costs
    ]
    limit = search.budgets.get(cost)
    chart = scatter(dots, x_label=f"{name_of(cost)}, {unit_of(cost)}", limit=limit if isinstance(limit, (int, float)) else None)
    return f"<div><h3>Points lost by {escape(name_of(cost).lower())}</h3>{chart}</div>" if chart else ""


def _importances(search: Searched) -> str:
    shares = sorted(search.importances.items(), key=lambda entry: -entry[1])
    rows = [
        [
            f"<code>{escape(name)}</code>",
            f'<div class="share"><span><i style="width:{100 * share:.1f}%"></i></span><b>{100 * share:.0f} %</b></div>',
        ]
        for name, share in shares
        if math.isfinite(share)
    ]
    about = "The share of the differences between good trials and the others that each option explains (PED-ANOVA); few trials tell little."
    return section("What mattered", about, table(["Option", "Share"], rows)) if rows else ""


def _trials(search: Searched) -> str:
    if not search.trials:
        return ""
    costs = [name for name in COSTS if any(name in tried.costs for tried in search.trials)]
    fidelity = any(tried.fidelity is not None for tried in search.trials)
    head = [
        "Trial",
        "#Points lost",
        *(f"#{name_of(name)}, {unit_of(name)}" for name in costs),
        *(["#Fidelity"] * fidelity),
        "Outcome",
        "#Time",
    ]
    rows = []
    for tried in search.trials:
        points = "" if tried.points is None else f"{number(tried.points)}{_interval(tried)}"
        mood = {"answered": "good", "ruled out": "doubt"}.get(tried.state, "bad")
        outcome = f'<span class="badge {mood}">{escape(tried.state)}</span>' + (f" <small>{escape(tried.why)}</small>" if tried.why else "")
        figures = [number(tried.costs[name]) if name in tried.costs else "" for name in costs]
        value = ["" if tried.fidelity is None else escape(str(tried.fidelity))] * fidelity
        rows.append([_named(tried), points, *figures, *value, outcome, f"{tried.seconds:.0f} s"])
    about = (
        f"{len(rows)}, in the order they were tried, sampled by {search.sampler} with seed {search.seed}. Points lost on val, with their "
        "95 % interval where the model has one output; those ruled out cost too much before anybody trained them. Time: of the batch."
    )
    listed = f"<details><summary>Every trial</summary>{table(head, rows)}</details>"
    return section("Trials", about, listed)


def _interval(tried: Tried) -> str:
    (loss, *others) = tried.losses.values()
    return bounds(loss) if not others and loss.per_point in (None, 1.0) else ""


def _named(tried: Tried) -> str:
    return f"{escape(tried.name)}<small>{escape(_words(tried.options))}</small>" if tried.options else escape(tried.name)


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {'null' if value is None else value}" for name, value in options.items())
