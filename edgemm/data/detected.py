"""What a report shows of the boxes that a model finds, before and after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.detection_parts import Detected


def detected(
    card: Card, truth: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, Detected]:
    """Output -> what it finds; only those that find boxes and were answered."""
    found: dict[str, Detected] = {}
    for name, task in tasks.tasks(card).items():
        if name not in truth:
            continue
        was, now = (
            task.boxes_found(answers, truth[name]) if all(read in answers for read in task.reads) else None for answers in (before, after)
        )
        if now is not None:
            found[name] = Detected(now, was)
    return found
