"""What the answers to subsets of the inputs tell beside their metrics: who said what, and how well late fusion is calibrated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers, Arrays
from edgemm.contracts.card import Card
from edgemm.contracts.joint import subset_name
from edgemm.contracts.report_parts import Calibration, Share
from edgemm.data import calibration
from edgemm.data.labelled import Labelled
from edgemm.data.shares import of_decision

Subsets = Mapping[tuple[str, ...], Answers]
"""Inputs that are there -> the answers, the whole first and the truth beside it."""


def who_said_what(card: Card, output: str, target: str, before: Subsets, after: Subsets) -> list[Share]:
    """Each input's share at a head that decides for one label; [] of others, and where not every subset was answered."""
    task, inputs = tasks.of(card.outputs[output]), next(iter(before))
    if not isinstance(task, Labelled) or not task.is_one_label or not task.labels or len(before) < 2 ** len(inputs) - 1:
        return []
    was, now = (
        of_decision({subset: task.shares(one.predictions[output].astype(np.float64)) for subset, one in side.items()}, inputs)
        for side in (before, after)
    )
    truth = next(iter(before.values())).truth[output]
    rows = []
    for number, label in enumerate(task.labels):
        there = truth == number
        for place, name in enumerate(inputs if there.any() else ()):
            points = [100 * float(side[there, place].mean()) for side in (was, now)]
            rows.append(Share(name, output, target, label, points[0], points[1], int(there.sum())))
    return rows


def calibrations(card: Card, where: str, subsets: Subsets, truth: Arrays) -> list[Calibration]:
    """How far a late fusion's chances mean what they say, for each subset of a head's members that the inputs bring; [] of others.

    Args:
        where: Words for whose answers these are.
    """
    if card.joint is None:
        return []
    rows = []
    for name, head in card.joint.heads.items():
        task = card.outputs[name].task
        brought = {there: [member for member in head.members if {*card.joint.members[member]} <= {*there}] for there in subsets}
        for there, members in sorted(brought.items(), key=lambda entry: (len(entry[1]), len(entry[0]))):
            if task in ("classification", "multilabel") and name in truth and members:
                known = calibration.reliability(task, subsets[there].predictions[name], truth[name])
                rows.append(Calibration(name, f"{subset_name(members)}, {where}", known, head.rules[subset_name(members)]))
    return rows
