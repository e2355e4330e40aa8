"""The section of the report page on rows as a training changed them."""

from __future__ import annotations

from html import escape

from edgemm.contracts.judged_parts import AugmentedInput
from edgemm.contracts.report import Report
from edgemm.report.sections import section

PICTURE = "data:image/png;base64,"


def augmented(report: Report) -> str:
    """A table for each input: a row as it is, and beside it what epochs saw of it."""
    parts = [_input(one) for one in report.details.augmented if one.rows]
    about = "Rows of train: first as they are, then as epochs saw them. Sound is shown as its spectrogram, low tones at the bottom."
    return section("Augmented samples", about, f'<div class="panels">{"".join(parts)}</div>') if parts else ""


def _input(one: AugmentedInput) -> str:
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in one.rows)
    return f'<div><h3>{escape(one.input)}</h3><div class="wide"><table class="augmented">{rows}</table></div></div>'


def _cell(cell: str) -> str:
    return f'<img src="{escape(cell, quote=True)}" alt="">' if cell.startswith(PICTURE) else escape(cell)
