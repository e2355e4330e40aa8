"""Which axis of a tensor counts places and which says what is at one; and, where neither fits the form, what nearly does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgemm.contracts.specs import show_shape
from edgemm.data.boxes.layout import BOXES, JOINED, KINDS, OF_PLACES, SCORED, Layout
from edgemm.errors import CardError

PYRAMIDS = ((8, 16, 32), (8, 16), (16, 32), (4, 8, 16), (8, 16, 32, 64), (4, 8, 16, 32), (8,), (16,), (32,))
"""Strides that detectors have, the commonest first: what is tried for an error's advice."""
MOST = 3  # things that nearly fit in one message


def rows(tensor: Any, name: str, part: str, layout: Layout) -> tuple[Any, tuple[int, int]]:
    """A tensor as (N, places, numbers), and the rows and columns of its places; (0, places) where it is flat.

    Raises:
        CardError: No axis of it has as many numbers as the form has.
    """
    shape = tuple(int(size) for size in tensor.shape)
    axis = _axis(shape, part, layout)
    if axis is None:
        raise misfit(name, shape, part, layout)
    if len(shape) == 2:
        return tensor.reshape(*shape, 1), (0, shape[1])
    if len(shape) == 3:
        return (tensor.swapaxes(1, 2) if axis == 1 else tensor), (0, shape[3 - axis])
    high, wide = shape[2:] if axis == 1 else shape[1:3]
    if axis == 1:
        return tensor.reshape(shape[0], shape[1], high * wide).swapaxes(1, 2), (high, wide)
    return tensor.reshape(shape[0], high * wide, shape[3]), (high, wide)


def check(shapes: Mapping[str, Sequence[int]], layout: Layout) -> None:
    """Hold the shapes of a model's answers, rows first, against a form.

    Raises:
        CardError: One does not fit, or two do not belong together.
    """
    counts: dict[str, int] = {}
    for part, names in layout.parts.items():
        for name in names:
            shape = tuple(shapes[name])
            axis = _axis(shape, part, layout)
            if axis is None:
                raise misfit(name, shape, part, layout)
            places = 1
            for index, size in enumerate(shape[1:], 1):
                places *= size if index != axis else 1
            counts[part] = counts.get(part, 0) + places
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{part} {count}" for part, count in counts.items())
        raise CardError(
            f"boxes and scores are not of the same places: {listing}.", why="each box has its scores.", fix="mend `from` in the card."
        )
    count = next(iter(counts.values()))
    is_flat = any(len(shapes[name]) < 4 for names in layout.parts.values() for name in names)
    if layout.form in OF_PLACES and is_flat and count != _places(layout, layout.strides):
        raise misplaced(layout, count)


def misfit(name: str, shape: Sequence[int], part: str, layout: Layout) -> CardError:
    """The error of a tensor that has no axis for what the form says of a place."""
    return CardError(
        f"tensor '{name}' is {show_shape(('batch', *shape[1:]))}, which does not fit {_form(layout)}.",
        why=f"{_said(part, layout)}, and no axis has so many.",
        fix=_near(shape, part, layout),
    )


def misplaced(layout: Layout, count: int) -> CardError:
    """The error of a model that answers for other places than the strides make."""
    size = f"{layout.width} x {layout.height}"
    near = [list(strides) for strides in PYRAMIDS if _places(layout, strides) == count]
    return CardError(
        f"the model answers for {count} places, strides {list(layout.strides)} of a picture of {size} make "
        f"{_places(layout, layout.strides)}.",
        why=f"form {layout.form} counts from the places of a grid.",
        fix=f"write strides: {near[0]}." if near else "write the strides of the model's levels, in the order of its places.",
    )


def _axis(shape: Sequence[int], part: str, layout: Layout) -> int | None:
    widths, rank = layout.widths(part), len(shape)
    if rank == 2:
        return 2 if 1 in widths else None  # one number a place, its axis left out
    axes = {3: (1, 2), 4: (1, 3)}.get(rank, ())
    preferred = axes if rank == 4 or layout.kind == "yolo" else axes[::-1]
    return next((axis for axis in preferred if shape[axis] in widths), None)


def _places(layout: Layout, strides: Sequence[int]) -> int:
    return sum(high * wide for high, wide in map(layout.grid, strides))


def _form(layout: Layout) -> str:
    return f"layout {layout.kind} of {layout.labels} label{'s' * (layout.labels != 1)}"


def _said(part: str, layout: Layout) -> str:
    scores = f"{layout.score_width} score{'s' * (layout.score_width != 1)}" + (" (one for nothing)" if layout.nothing else "")
    box = f"{layout.box_width} of a box"
    if part == JOINED:
        numbers = " or ".join(str(width) for width in layout.widths(part))
        return f"a place has {numbers} numbers: {box}, {'an objectness, ' * (layout.kind == 'objectness')}{scores}"
    return f"a place has {box}" if part == BOXES else f"a place has {scores}" if part == SCORED else "a place has one objectness"


def _near(shape: Sequence[int], part: str, layout: Layout) -> str:
    """What would fit: another layout or form of the same labels, or another number of labels."""
    sizes = sorted({*shape[1:2], *shape[-1:]} if len(shape) > 2 else set())
    near: list[str] = []
    for kind in KINDS if part == JOINED else (layout.kind,):
        for form in (layout.form, "cxcywh" if layout.form == "dfl" else "dfl"):  # the others have as many numbers as these
            for nothing in dict.fromkeys((layout.nothing, None, "last")):
                other = replace(layout, kind=kind, form=form, nothing=nothing)
                if any(size in other.widths(part) for size in sizes):
                    words = [f"layout: {kind}"] * (kind != layout.kind) + [f"form: {form}"] * (form != layout.form)
                    near.append(" with ".join(words + [f"nothing: {nothing or 'null'}"] * (nothing != layout.nothing)))
    counts = [size - width + layout.labels for size in sizes for width in layout.widths(part)] if part in (JOINED, SCORED) else []
    near.sort(key=lambda words: words.count(":"))  # the fewest changes first
    near += [f"{count} labels ({layout.labels} are listed)" for count in counts if count > 0 and count < 4 * max(sizes)]
    if not near:
        return "check layout, form, labels and from in the card against what the model returns."
    return f"what nearly fits: {'; '.join(list(dict.fromkeys(near))[:MOST])}."
