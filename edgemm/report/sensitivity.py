"""The section of the report page about what each branch bears: a heat map a head."""

from __future__ import annotations

from html import escape

from edgemm.contracts.report import Report
from edgemm.contracts.sensitivity import Cell, Sensitivity
from edgemm.report.formatting import number
from edgemm.report.sections import section

DEEP = 0.55  # shade from which the number is written in white


def sensitivity(report: Report) -> str:
    """A row for each branch, a column for each treatment; shade = what is lost, as a share of the most that any cell loses."""
    study = report.details.sensitivity
    if study is None:
        return ""
    maps = "".join(_map(study, output) for output in study.before)
    about = (
        "What a head loses against the original when one branch alone is pruned by magnitude, without training afterwards, "
        f"or alone runs in INT8 on {study.target or 'the target'}. {study.rows} rows of {study.split}; test is not looked at."
    )
    return section("What each branch bears", about, f'<div class="panels">{maps}</div>') if maps else ""


def _map(study: Sensitivity, output: str) -> str:
    cells = [cell for cell in study.cells if cell.output == output]
    treatments = list(dict.fromkeys(cell.treatment for cell in cells))
    most = max((cell.value for cell in cells if cell.value is not None), default=0.0)
    head = "".join(f"<th scope=col><span>{escape(word)}</span></th>" for word in treatments)
    rows = []
    for branch in dict.fromkeys(cell.branch for cell in cells):
        drawn = "".join(_cell(study.find(branch, treatment, output), most) for treatment in treatments)
        rows.append(f"<tr><th scope=row>{escape(branch)}</th>{drawn}</tr>")
    unit = next((cell.unit for cell in cells), "")
    before = f"{study.metric[output]} {number(study.before[output])} before; lost, in {unit}"
    return (
        f'<figure class="matrix"><figcaption>{escape(output)} <small>{escape(before)}</small></figcaption><div class="wide"><table>'
        f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _cell(cell: Cell | None, most: float) -> str:
    if cell is None or cell.value is None:
        why = escape(cell.note if cell and cell.note else "not treated", quote=True)
        return f'<td title="{why}"><span>–</span></td>'
    share = max(0.0, cell.value) / most if most > 0 else 0.0
    interval = "" if cell.low is None or cell.high is None else f"{number(cell.low)} … {number(cell.high)}"
    title = escape("; ".join(word for word in (interval, cell.note) if word), quote=True)
    deep = " deep" if share > DEEP else ""
    return f'<td class="miss{deep}" title="{title}" style="--share:{share:.3f}"><span>{number(cell.value)}</span></td>'
