"""The page of an explanation: who said what, and what in the picture, the sound, the words."""

from __future__ import annotations

from html import escape

import numpy as np

from edgemm.contracts.explanation import Explanation, HeadExplained, Heat, RowExplained, Said
from edgemm.report import heat
from edgemm.report.formatting import number
from edgemm.report.page import document
from edgemm.report.sections import section, table


def render(explanation: Explanation) -> str:
    """One HTML file."""
    asked = ", ".join(f"{form} {count}" for form, count in explanation.calls.items())
    lead = (
        f'<p class="lead">{escape(" beside ".join(explanation.forms))}. Red speaks for the answer, blue against it: what the answer loses '
        "where a piece of an input is taken away.</p>"
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in explanation.notes)
    notes = f'<section class="notes"><h2>Worth knowing</h2><ul>{notes}</ul></section>' if notes else ""
    body = notes + "".join(_row(row) for row in explanation.rows)
    return document(f"{explanation.model}, explained", lead, body, f"Written by edgemm. Samples answered: {asked}.")


def _row(row: RowExplained) -> str:
    parts = []
    for head in row.heads:
        true = f"; the dataset says {row.truth[head.output]}" if head.output in row.truth else ""
        about = f"What is explained: {head.output}{f' is {head.label}' if head.label else ''}{true}."
        agree = (
            ""
            if head.agreement is None
            else f'<p class="agree"><b>{head.agreement:.2f}</b> is how far both look at the same: Spearman\'s rank correlation of what '
            "every piece of every input is worth to them; 1 = in the same order.</p>"
        )
        title = f"Row {row.number} ({row.split})" + (f", {head.output}" if len(row.heads) > 1 else "")
        parts.append(section(title, about, _shares(head) + agree + _heats(head)))
    return "".join(parts)


def _shares(head: HeadExplained) -> str:
    """What each form says, and which input added how much."""
    names = list(dict.fromkeys(name for said in head.said.values() for name in said.shares))
    columns = [f"#{name}, points" if head.label else f"#{name}" for name in names]
    first = ["Form", "Answer", f"#{'Chance' if head.label else 'Value'} of {head.label or head.output}", "#Without any input", *columns]
    rows = [[escape(form), escape(said.decision), *_figures(said, names, is_chance=bool(head.label))] for form, said in head.said.items()]
    return table(first, rows)


def _figures(said: Said, names: list[str], *, is_chance: bool) -> list[str]:
    def shown(value: float, *, signed: bool = False) -> str:
        words = f"{100 * value:.1f} %" if is_chance and not signed else number(100 * value if is_chance else value)
        return f"+{words}" if signed and value > 0 else words

    usual = shown(said.usual) if said.shares else ""
    return [shown(said.value), usual, *(shown(said.shares[name], signed=True) if name in said.shares else "" for name in names)]


def _heats(head: HeadExplained) -> str:
    most = max((float(np.abs(worth).max()) for one in head.heats for worth in one.maps.values()), default=0.0)
    panels = "".join(_heat(one, head, most) for one in head.heats)
    scale = f'<p class="about below">The deepest colour is {number(most)} {escape(head.unit)}.</p>' if head.heats else ""
    return scale + panels


def _heat(one: Heat, head: HeadExplained, most: float) -> str:
    """An input: as it is, then with the map of each form."""
    agree = "" if one.agreement is None else f" <small>agrees to {one.agreement:.2f}</small>"
    what = head.label or head.output
    figures = [] if one.canvas.kind == "words" else [("as it is", heat.drawn(one.canvas, None, most, one.input))]
    figures += [
        (form, heat.drawn(one.canvas, worth, _deepest(form, worth, head, most), f"what of {one.input} speaks for {what}, {form}"))
        for form, worth in one.maps.items()
    ]
    shown = "".join(f"<figure><figcaption>{escape(form)}</figcaption>{picture}</figure>" for form, picture in figures)
    return f'<h3>{escape(one.input)}{agree}</h3><div class="maps">{shown}</div>'


def _deepest(form: str, worth: np.ndarray, head: HeadExplained, most: float) -> float:
    """Maps of another kind than what was taken away have a scale of their own."""
    return most if form in head.said else float(np.abs(worth).max())
