"""What the torch steps did, drawn from ``details.applied``, whatever plain values the facts are.

Curves become charts, lists of mappings tables, mappings of mappings tables with a row each, single values a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from edgemm.contracts.report import Report
from edgemm.report import charts
from edgemm.report.sections import section, table

SHOWN_ROWS = 12  # of a table; a longer one is folded away
COUNTED = ("parameters", "macs", "flops", "weights", "channels")  # large whole numbers, written as 1.2 M
SPELLED = {"macs": "MACs", "sqnr_db": "SQNR, dB", "max_abs": "largest difference"}
PAIR = ("before", "after")


def applied(report: Report) -> str:
    """A part for each torch step, in order."""
    parts = []
    for row in report.details.applied:
        options_html = f" <small>{_inline(row.options)}</small>" if row.options else ""
        parts.append(f'<div class="step"><h3>{escape(row.step)}{options_html}</h3>{_facts(row.facts)}</div>')
    return section("Trained and reshaped", "What the steps before the export did, in order.", "".join(parts)) if parts else ""


def _facts(facts: Mapping[str, Any]) -> str:
    """Single values first, then tables, then charts."""
    single, tables, drawn = [], [], []
    for name, value in facts.items():
        if value is None or value in ("", [], {}):
            continue
        if _is_curve(value):
            drawn.append(_chart(_title(name), {_words(name): value}))
        elif isinstance(value, Mapping) and value and all(_is_curve(entry) for entry in value.values()):
            drawn += _charts(value)
        elif (table_html := _table(name, value)) is not None:
            tables.append(table_html)
        else:
            single.append(f"<dt>{escape(_title(name))}</dt><dd>{_inline(value, name)}</dd>")
    listed = f'<dl class="facts">{"".join(single)}</dl>' if single else ""
    panels = f'<div class="panels">{"".join(drawn)}</div>' if drawn else ""
    return f"{listed}{''.join(tables)}{panels}"


def _is_curve(value: Any) -> bool:
    """Whether it is a list of points ``[x, y]``, such as ``[[1, 0.7], [2, 0.5]]``."""
    return (
        isinstance(value, (list, tuple)) and len(value) > 1
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and all(isinstance(v, (int, float)) for v in p) for p in value)
    )  # fmt: skip


def _charts(curves: Mapping[str, Any]) -> list[str]:
    """One chart for each ``<chart>/...``, a line for each ``.../<line>``."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, points in curves.items():
        chart, _, line = str(name).rpartition("/")
        grouped.setdefault(chart or line, {})[line] = points
    return [_chart(chart, series) for chart, series in grouped.items()]


def _chart(title: str, series: Mapping[str, Any]) -> str:
    return f"<div><h3>{escape(title)}</h3>{charts.lines(series, x_label='epoch')}</div>"


def _table(name: str, value: Any) -> str | None:
    """A table of a list of mappings, or of a mapping of mappings; None for anything else."""
    rows: list[tuple[str, Mapping[str, Any]]]
    if isinstance(value, Mapping) and value and all(isinstance(entry, Mapping) for entry in value.values()):
        rows = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, (list, tuple)) and value and all(isinstance(entry, Mapping) for entry in value):
        rows = [("", entry) for entry in value]
    else:
        return None
    columns = list(dict.fromkeys(str(key) for _, entry in rows for key in entry))
    named = any(key for key, _ in rows)
    numeric = {
        c for c in columns if all(_is_number(entry.get(c)) or _is_pair(entry.get(c)) for _, entry in rows if entry.get(c) is not None)
    }
    head = [*([""] if named else []), *(("#" if column in numeric else "") + _words(column) for column in columns)]
    cells = [[*([escape(key)] if named else []), *(_inline(entry.get(column), column) for column in columns)] for key, entry in rows]
    drawn = table(head, cells)
    if len(rows) > SHOWN_ROWS:
        return f"<details><summary>{escape(_title(name))}: {len(rows)}</summary>{drawn}</details>"
    return f'<p class="group">{escape(_title(name))}</p>{drawn}'


def _inline(value: Any, name: str = "") -> str:
    """A value in a line of HTML."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if _is_number(value):
        return _number(value, name)
    if _is_pair(value):
        before, after = (_inline(value[key], name) for key in PAIR)
        return before if before == after else f"{before} → {after}"
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(_words(str(key)))} {_inline(entry, str(key))}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_inline(entry, name) for entry in value)
    return escape(str(value))


def _number(value: float, name: str) -> str:
    if not math.isfinite(value):
        return "–"
    if isinstance(value, int) and any(word in name for word in COUNTED):
        for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{value / size:.3g} {word}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and set(value) == set(PAIR) and not any(isinstance(entry, (Mapping, list)) for entry in value.values())
    )


def _words(name: str) -> str:
    """``channels_kept`` as people write it; names with dots or slashes are a layer's or a curve's own and stay."""
    return name if any(mark in name for mark in "./:") else SPELLED.get(name, name.replace("_", " "))


def _title(name: str) -> str:
    word = _words(name)
    return word[:1].upper() + word[1:]
