"""What was said of single rows, by which inputs, and what in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Canvas:
    """An input of a row as people look at it.

    Attributes:
        kind: What it is.
        pixels: Of a picture uint8 (height, width, 1 or 3), red first; of sound its spectrogram, low tones at the bottom.
        words: Of a text.
        series: Of measurements (channels, moments).
        seconds: How long a sound is.
        edges_hz: Edges of its bands in the map, from low to high.
    """

    kind: Literal["picture", "sound", "words", "series"]
    pixels: np.ndarray | None = field(default=None, compare=False, repr=False)
    words: tuple[str, ...] = ()
    series: np.ndarray | None = field(default=None, compare=False, repr=False)
    seconds: float = 0.0
    edges_hz: tuple[float, ...] = ()


@dataclass(frozen=True)
class Heat:
    """What the pieces of an input add to an answer.

    Attributes:
        maps: Form of the model -> (rows, columns): what the answer loses without the piece. Row 0 is a picture's top, a spectrogram's
            lowest band, the first channel.
        agreement: Spearman's rank correlation of the first two maps; None where there are no two, or one of them is flat.
    """

    input: str
    canvas: Canvas
    maps: Mapping[str, np.ndarray] = field(compare=False, repr=False)
    agreement: float | None = None


@dataclass(frozen=True)
class Said:
    """What one form of a model says at one output.

    Attributes:
        decision: Its label or number, in words.
        value: Of what is explained: the chance of the label, or the number.
        usual: The same where no input is there: what is said on average.
        shares: Input -> its Shapley share in ``value``; they add up to ``value - usual``. {} where subsets of inputs cannot be asked.
    """

    decision: str
    value: float
    usual: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class HeadExplained:
    """One output of one row.

    Attributes:
        label: What is explained; "" where it is a number.
        unit: Of the maps.
        said: Form of the model -> what it says.
        agreement: Spearman's rank correlation of all pieces of all inputs, between the first two forms.
    """

    output: str
    label: str
    unit: str
    said: Mapping[str, Said]
    heats: Sequence[Heat]
    agreement: float | None = None


@dataclass(frozen=True)
class RowExplained:
    """One row of a dataset.

    Attributes:
        number: As a person counts: the line in a text manifest.
        truth: Output -> what the dataset says, where it does.
    """

    number: int
    split: str
    truth: Mapping[str, str]
    heads: Sequence[HeadExplained]


@dataclass(frozen=True)
class Explanation:
    """What a model made of some rows.

    Attributes:
        model: As the user named it.
        forms: The forms that were asked, the original first.
        calls: Form -> how many samples it answered.
        notes: What the reader must know.
    """

    model: str
    forms: tuple[str, ...]
    rows: Sequence[RowExplained]
    calls: Mapping[str, int]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "model": self.model,
            "forms": list(self.forms),
            "calls": dict(self.calls),
            "notes": list(self.notes),
            "rows": [
                {"row": row.number, "split": row.split, "truth": dict(row.truth), "heads": [_head(head) for head in row.heads]}
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        lines = [line for row in self.rows for head in row.heads for line in _lines(row, head)]
        asked = ", ".join(f"{form} {count}" for form, count in self.calls.items())
        return "\n".join([*lines, f"samples answered: {asked}", *(f"note: {note}" for note in self.notes)])


def _head(head: HeadExplained) -> dict[str, Any]:
    heats = {
        heat.input: {"agreement": heat.agreement, "maps": {form: np.round(worth, 5).tolist() for form, worth in heat.maps.items()}}
        | ({"words": list(heat.canvas.words)} if heat.canvas.words else {})
        for heat in head.heats
    }
    said = {form: {**vars(one), "shares": dict(one.shares)} for form, one in head.said.items()}
    about = {"output": head.output, "label": head.label, "unit": head.unit, "agreement": head.agreement}
    return about | {"said": said, "inputs": heats}


def _lines(row: RowExplained, head: HeadExplained) -> list[str]:
    true = f", true {row.truth[head.output]}" if row.truth.get(head.output) else ""
    agree = "" if head.agreement is None else f"; what they look at agrees to {head.agreement:.2f} (Spearman)"
    lines = [f"row {row.number} ({row.split}), {head.output}{f': {head.label}' if head.label else ''}{true}{agree}"]
    for form, one in head.said.items():
        shares = ", ".join(f"{name} {share:+.3f}" for name, share in one.shares.items())
        lines.append(f"  {form}: {one.decision} {one.value:.3f}" + (f" = {one.usual:.3f} {shares}" if shares else ""))
    return lines
