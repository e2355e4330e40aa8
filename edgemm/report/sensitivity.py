"""The section of the report page about what each branch bears: a heat map a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgemm.contracts.report import Report
from edgemm.report.formatting import number
from edgemm.report.sections import section

DEEP = 0.55  # shade from which the number is written in white


def sensitivity(report: Report) -> str:
    """A row for each branch, a column for each treatment; shade = what is lost, as a share of the most that any cell loses."""
    study = report.details.sensitivity
    maps = [_map(study, str(output)) for output in study.get("before") or {}]
    where, rows = study.get("target") or "the target", f"{study.get('rows')} rows of {study.get('split')}"
    about = (
        "What a head loses against the original when one branch alone is pruned by magnitude, without training afterwards, "
        f"or alone runs in INT8 on {where}. {rows}; test is not looked at."
    )
    return section("What each branch bears", about, f'<div class="panels">{"".join(maps)}</div>') if maps else ""


def _map(study: Mapping[str, Any], output: str) -> str:
    cells = [cell for cell in study.get("cells") or [] if cell["output"] == output]
    treatments = list(dict.fromkeys(str(cell["treatment"]) for cell in cells))
    most = max((float(cell["value"]) for cell in cells if cell["value"] is not None), default=0.0)
    head = "".join(f"<th scope=col><span>{escape(word)}</span></th>" for word in treatments)
    rows = []
    for branch in dict.fromkeys(str(cell["branch"]) for cell in cells):
        drawn = "".join(_cell(_find(cells, branch, treatment), most) for treatment in treatments)
        rows.append(f"<tr><th scope=row>{escape(branch)}</th>{drawn}</tr>")
    unit = next((str(cell["unit"]) for cell in cells), "")
    before = f"{study['metric'][output]} {number(study['before'][output])} before; lost, in {unit}"
    return (
        f'<figure class="matrix"><figcaption>{escape(output)} <small>{escape(before)}</small></figcaption><div class="wide"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _find(cells: Sequence[Mapping[str, Any]], branch: str, treatment: str) -> Mapping[str, Any] | None:
    return next((cell for cell in cells if (cell["branch"], cell["treatment"]) == (branch, treatment)), None)


def _cell(cell: Mapping[str, Any] | None, most: float) -> str:
    if cell is None or cell["value"] is None:
        why = escape(str((cell or {}).get("note") or "not treated"), quote=True)
        return f'<td title="{why}"><span>–</span></td>'
    value = float(cell["value"])
    share = max(0.0, value) / most if most > 0 else 0.0
    interval = "" if cell.get("low") is None else f"{number(cell['low'])} … {number(cell['high'])}"
    title = escape("; ".join(word for word in (interval, str(cell.get("note") or "")) if word), quote=True)
    deep = " deep" if share > DEEP else ""
    return f'<td class="miss{deep}" title="{title}" style="--share:{share:.3f}"><span>{number(value)}</span></td>'
