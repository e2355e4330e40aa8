"""The section of the report page with single pictures: what is there, and what was answered before and after compression."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from zlib import crc32

from edgemm.contracts.picture_parts import Panel, SamplePicture, Shape
from edgemm.contracts.report import Report
from edgemm.report.sections import section

WHY = {"lost most": "Lost most by compression", "worst": "Answered worst", "usual": "Usual"}
COLOURS = 6  # of charts: c0, c1, ...
HIGH = 100.0  # of the drawing's own units


def pictured(report: Report) -> str:
    """Each output's pictures, those of a kind side by side."""
    parts = []
    for name, samples in report.details.pictures.items():
        kinds = dict.fromkeys(sample.why for sample in samples)
        rows = "".join(f"<h3>{escape(WHY.get(why, why))}</h3>{_row([one for one in samples if one.why == why])}" for why in kinds)
        heading = f"<h3>{escape(name)}</h3>" if len(report.details.pictures) > 1 else ""
        parts.append(f"{heading}{rows}" if len(report.details.pictures) == 1 else f'<div class="step">{heading}{rows}</div>')
    about = (
        "Of the first test rows, as the model gets them. Quality, 0 to 1: overlap (of points, likeness) of all that is found, over what is "
        "there and what was answered; of masks the mean IoU of the picture's labels."
    )
    return section("Pictures", about, "".join(parts)) if parts else ""


def _row(samples: Sequence[SamplePicture]) -> str:
    return '<div class="pictures">' + "".join(_sample(sample) for sample in samples) + "</div>"


def _sample(sample: SamplePicture) -> str:
    first = sample.panels[0].jpeg
    drawn = "".join(_panel(panel, first, sample) for panel in sample.panels)
    return f'<figure><div class="forms">{drawn}</div><figcaption>row {sample.row}</figcaption></figure>'


def _panel(panel: Panel, first: str, sample: SamplePicture) -> str:
    wide = HIGH * sample.width / sample.height
    shapes = "".join(_shape(shape, wide) for shape in panel.shapes)
    quality = "" if panel.quality is None else f" {panel.quality:.2f}"
    image = f'<image href="data:image/jpeg;base64,{panel.jpeg or first}" width="{wide:.6g}" height="{HIGH:g}"/>'
    return (
        f'<div><svg viewBox="0 0 {wide:.6g} {HIGH:g}" role="img">{image}{shapes}</svg><small>{escape(panel.title)}{quality}</small></div>'
    )


def _shape(shape: Shape, wide: float) -> str:
    """A box, or points and their lines, in the colour of its label, with what it is and how sure."""
    kind = f"c{crc32(shape.label.encode()) % COLOURS}"
    words = escape(shape.label if shape.score is None else f"{shape.label} {shape.score:.2f}")
    places = [(x * wide, y * HIGH) for x, y in shape.points]
    drawn = "".join(_line(places[one], places[other]) for one, other in shape.lines)
    drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for x, y in places)
    corner = min(places, key=lambda place: place[1]) if places else (0.0, 0.0)
    if shape.box:
        x0, y0, x1, y1 = (edge * side for edge, side in zip(shape.box, (wide, HIGH, wide, HIGH), strict=True))
        drawn += f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0):.1f}" height="{max(y1 - y0, 0):.1f}"/>'
        corner = (x0, y0)
    text = f'<text x="{corner[0]:.1f}" y="{max(corner[1] - 1.5, 6):.1f}">{words}</text>'
    return f'<g class="{kind}">{drawn}{text}</g>'


def _line(one: tuple[float, float], other: tuple[float, float]) -> str:
    return f'<line x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}"/>'
