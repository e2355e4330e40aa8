"""One offline page that shows a report."""

from __future__ import annotations

from html import escape

from edgemm.report import Report


def render(report: Report) -> str:
    """The report as one HTML file without external parts; reads without scripts."""
    rows = "".join(
        f"<tr><td>{escape(m.name)}<td>{escape(m.subject)}<td>{escape(m.target or '')}<td>{m.value:.4g} {escape(m.unit)}"
        for m in report.measurements
    )
    title = escape(str(report.details.get("title", "edgemm report")))
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1><table>{rows}</table>"
