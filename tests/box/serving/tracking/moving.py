"""Things that move over a picture, as a detector would see them: jittery, sometimes missed, with false alarms between."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.decision import Box

SIZE = 1280, 720


@dataclass(frozen=True)
class Thing:
    """``place(t)`` is its centre at a moment, in pixels."""

    label: str
    place: Callable[[float], tuple[float, float]]
    width: float = 80.0
    height: float = 160.0
    score: float = 0.8


def line(x, y, *, across=0.0, down=0.0):
    """A place that moves evenly, in pixels a second."""
    return lambda t: (x + across * t, y + down * t)


def seen(things, t, rng, *, jitter=0.0, missed=0.0, false_alarms=0.0) -> list[tuple[Box, int | None]]:
    """The boxes of a moment in any order, each with the number of its thing; None for a false alarm."""
    boxes = []
    for number, thing in enumerate(things):
        if rng.random() < missed:
            continue
        (x, y), (left, up, right, down) = thing.place(t), rng.normal(0, jitter, 4) if jitter else (0, 0, 0, 0)
        score = float(np.clip(thing.score + (rng.normal(0, 0.05) if jitter else 0), 0.05, 1))
        corners = x - thing.width / 2 + left, y - thing.height / 2 + up, x + thing.width / 2 + right, y + thing.height / 2 + down
        boxes.append((Box(thing.label, score, *corners), number))
    for _ in range(rng.poisson(false_alarms)):
        x, y, width, height = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), rng.uniform(30, 150), rng.uniform(30, 200)
        boxes.append((Box("person", rng.uniform(0.3, 0.9), x, y, x + width, y + height), None))
    order = rng.permutation(len(boxes))
    return [boxes[index] for index in order]
