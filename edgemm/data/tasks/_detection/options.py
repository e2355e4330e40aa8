"""What a card may say of a detector's answers, checked, as one ``Layout``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.data.boxes.layout import (
    BINS,
    BOXES,
    FORMS,
    JOINED,
    JOINS,
    KINDS,
    OF_PLACES,
    PARTS,
    SCORED,
    SCORES,
    UNITS,
    Layout,
)
from edgemm.errors import CardError, nearest

IN_BOXES = ("form", "unit", "bins", "strides")
NMS = {"iou": 0.6, "score": 0.05, "most": 100}
"""What suppression does where the card does not say."""


def parts_of(given: Mapping[str, Any] | None, name: str, kind: str) -> dict[str, tuple[str, ...]]:
    """Which tensors hold what: those that ``from`` names; without it the output's own, which holds both.

    Raises:
        CardError: It names other things, or leaves out boxes or scores.
    """
    if given is None:
        if kind in ("levels", "set"):
            what = "several tensors, one or more a level" if kind == "levels" else "boxes and scores apart"
            raise CardError(
                f"layout {kind} wants from.", why=f"it joins {what}.", fix="write from: {scores: [names of tensors], boxes: [...]}."
            )
        return {JOINED: (name,)}
    for part in given:
        _require(part, PARTS, "from has")
    parts = {part: (value,) if isinstance(value, str) else tuple(map(str, value)) for part, value in given.items()}
    if JOINED in parts and len(parts) > 1:
        raise CardError("from names joined tensors and others.", why="joined ones hold boxes and scores.", fix="remove either.")
    for part in () if JOINED in parts else (BOXES, SCORED):
        if not parts.get(part):
            raise CardError(f"from names no {part}.", why="without them no box can be told or chosen.", fix=f"add {part}: NAME.")
    counts = {part: len(names) for part, names in parts.items()}
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{part} {count}" for part, count in counts.items())
        raise CardError(f"from names unequal numbers of tensors: {listing}.", fix="name one of each kind a level, in one order.")
    return parts


def layout_of(
    name: str,
    *,
    kind: str,
    labels: int,
    given: Mapping[str, Any] | None,
    boxes: Mapping[str, Any],
    scores: str,
    nothing: str | None,
    objectness: str,
    size: tuple[int, int] | None,
) -> Layout:
    """The whole of it.

    Args:
        size: Height and width of the model's picture; None where nobody knows.

    Raises:
        CardError: A value is none that is known, or does not go with another.
    """
    _require(kind, KINDS, "layout is")
    _require(scores, SCORES, "scores is")
    _require(objectness, JOINS, "objectness is")
    form, unit, bins, strides = _boxes(boxes)
    if scores == "softmax_with_nothing":
        nothing = nothing or "last"
    high, wide = size or (0, 0)
    return Layout(kind, labels, parts_of(given, name, kind), wide, high, form, unit, bins, strides, scores, nothing, objectness)


def _boxes(boxes: Mapping[str, Any]) -> tuple[str, str, int, tuple[int, ...]]:
    for key in boxes:
        _require(key, IN_BOXES, "boxes has")
    form = str(boxes.get("form", "cxcywh"))
    _require(form, FORMS, "boxes.form is")
    unit = str(boxes.get("unit", "stride" if form in ("dfl", "grid") else "pixels"))
    _require(unit, UNITS, "boxes.unit is")
    bins, strides = boxes.get("bins", BINS), boxes.get("strides", ())
    if form in OF_PLACES and not strides:
        raise CardError(f"boxes.form {form} wants strides.", why="it counts from places in a grid.", fix="write strides: [8, 16, 32].")
    if form not in OF_PLACES and unit == "stride":
        raise CardError(f"boxes.unit is 'stride' with form {form}.", why="that has no grid.", fix="write unit: pixels or ratio.")
    if form != "dfl" and "bins" in boxes:
        raise CardError(f"boxes.bins goes with form dfl, not {form}.", fix="remove bins.")
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 2:
        raise CardError(f"boxes.bins is {bins!r}.", fix="write a whole number of at least 2.")
    if not isinstance(strides, (list, tuple)) or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in strides):
        raise CardError(f"boxes.strides is {strides!r}.", fix="write whole numbers of pixels: strides: [8, 16, 32].")
    return form, unit, bins, tuple(strides)


def suppression(nms: Mapping[str, float] | None, kind: str, most: int | None) -> dict[str, float]:
    """What is suppressed, and what is kept: ``iou``, ``score``, ``most``.

    Raises:
        CardError: Another key, a value out of range; or a set that is suppressed.
    """
    if kind == "set" and nms is not None:
        raise CardError("layout set with nms.", why="a set holds each thing once.", fix="remove nms; most says how many are kept.")
    for key in nms or {}:
        _require(key, tuple(NMS), "nms has")
    chosen: dict[str, float] = {**NMS, "score": 0.0 if kind == "set" else NMS["score"], **(nms or {})}
    if most is not None:
        chosen["most"] = most
    for key in ("iou", "score"):
        if not 0 <= chosen[key] <= 1:
            raise CardError(f"nms.{key} is {chosen[key]:g}.", fix="write a number from 0 to 1.")
    if chosen["most"] < 1 or chosen["most"] % 1:
        raise CardError(f"most is {chosen['most']:g}.", fix="write a whole number of at least 1.")
    return chosen


def _require(value: str, known: Sequence[str], what: str) -> None:
    if value not in known:
        raise CardError(f"{what} '{value}'.", fix=nearest(str(value), known))
