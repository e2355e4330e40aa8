"""Which rule joins a subset of members: the one that answers best those rows of val that it was not fitted on, and not worse elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemm.contracts import joint as rules
from edgemm.contracts import joint_ops
from edgemm.contracts.joint import ALONE, AVERAGE, GATE, STACKING, WEIGHTED
from edgemm.contracts.joint_ops import NumpyOps
from edgemm.data import calibration
from edgemm.pipeline.late_fusion import learning

FOLDS = 5
LEAST_ROWS = 40  # with fewer a fold of val is 7 rows, and which rule wins is chance: the average is taken
PENALTIES = (1e-3, 1e-2, 1e-1)
"""Of stacking: what the square of a weight's distance to the average's costs beside a row's loss; which one is found like a rule."""
GATE_PENALTY = 1e-3
WORSE = 0.02
"""Share of rows of train that a learned rule may answer worse than the average; members that were trained there leave little to gain."""

OPS = NumpyOps()
Arrays = Mapping[str, np.ndarray]
Candidate = tuple[str, float]
"""A rule and its penalty."""


@dataclass(frozen=True)
class Tried:
    """A rule for a subset, and what it came to.

    Attributes:
        loss: Mean over rows that the rule was not fitted on: negative log-likelihood, or squared error in deviations.
        taken: Whether it is the subset's now.
        note: Why it was not, where it won.
    """

    subset: str
    rule: str
    loss: float
    taken: bool = False
    note: str = ""


@dataclass(frozen=True)
class Part:
    """Evidence of one subset's members, (rows, 1, members, values), and the truth: in deviations, of a regression."""

    task: str
    heard: np.ndarray
    truth: np.ndarray | None
    width: int

    def rows(self, index: np.ndarray) -> Part:
        return replace(self, heard=self.heard[index], truth=None if self.truth is None else self.truth[index])

    def wanted(self) -> np.ndarray:
        """What the answer should be."""
        assert self.truth is not None  # only an embedding has none, and nothing is fitted there
        return self.truth


def chosen(
    part: Part, rule: str, weights: np.ndarray, seed: int, elsewhere: Part | None = None
) -> tuple[tuple[str, dict[str, np.ndarray]], list[Tried]]:
    """The rule of one subset with its parameters, and what was tried."""
    members = part.heard.shape[2]
    if part.truth is None:
        wanted = ALONE if members == 1 else rule or AVERAGE
        return (wanted, _fitted(part, wanted, weights, 0.0)), []
    options = [ALONE] if members == 1 else [rule] if rule else [one for one in rules.TRIED if one in rules.RULES[part.task]]
    if not rule and len(part.heard) < LEAST_ROWS and members > 1:
        options = [AVERAGE]
    candidates = [(one, penalty) for one in options for penalty in (PENALTIES if one == STACKING else (GATE_PENALTY,))]
    outside = [_out_of_fold(part, one, weights, penalty, seed) for one, penalty in candidates]
    known = [calibration.losses(part.task, _at(said, *_calibration(part, said)), part.wanted()) for said in outside]
    notes = {} if rule or elsewhere is None else _worse_elsewhere(part, elsewhere, candidates, weights)
    kept = [number for number, candidate in enumerate(candidates) if candidate not in notes]
    best = kept[_simplest([known[number] for number in kept])]
    name, penalty = candidates[best]
    scale, shift = _calibration(part, outside[best])
    parameters = _fitted(part, name, weights, penalty) | {"scale": scale[None, None, None], "shift": shift[None, None, None]}
    tried: dict[str, Tried] = {}
    for number, candidate in enumerate(candidates):
        row = Tried("", candidate[0], float(known[number].mean()), number == best, notes.get(candidate, ""))
        before = tried.get(candidate[0], row)
        tried[candidate[0]] = row if row.taken or (row.loss <= before.loss and not before.taken) else before
    return (name, parameters), list(tried.values())


def _worse_elsewhere(part: Part, elsewhere: Part, candidates: Sequence[Candidate], weights: np.ndarray) -> dict[Candidate, str]:
    """Learned rules that answer other rows worse than the average does, and that in words: they learned what is odd about val.

    Of digits the one voice of val says one digit as other voices say another; stacking learns which, and of the voices of train it then
    gets every third wrong.
    """
    if part.task not in ("classification", "multilabel"):
        return {}  # numbers of members that were trained on these rows are too good to compare

    def right(rule: str, penalty: float) -> np.ndarray:
        parameters = _fitted(part, rule, weights, penalty)
        scale, shift = _calibration(part, _said(part, rule, parameters))
        said = _at(_said(elsewhere, rule, parameters), scale, shift)
        if part.task == "classification":
            return np.asarray(said.argmax(-1) == elsewhere.wanted(), float)
        return np.asarray(((said > 0) == (elsewhere.wanted() > 0.5)).mean(-1), float)

    usual = right(AVERAGE, GATE_PENALTY)
    notes = {}
    for rule, penalty in candidates:
        gap = usual - right(rule, penalty) if rule in (STACKING, GATE) else np.zeros(1)
        if gap.mean() > WORSE and gap.mean() > 2 * gap.std() / len(gap) ** 0.5:
            notes[rule, penalty] = f"right in {usual.mean() - gap.mean():.1%} of train where the average is in {usual.mean():.1%}"
    return notes


def _simplest(losses: Sequence[np.ndarray]) -> int:
    """The first whose loss is not shown to be above the least one's: within one standard error of their paired difference."""
    best = int(np.argmin([loss.mean() for loss in losses]))
    for number, loss in enumerate(losses):
        gap = loss - losses[best]
        if gap.mean() <= gap.std() / max(len(gap), 1) ** 0.5:
            return number
    return best


def _out_of_fold(part: Part, rule: str, weights: np.ndarray, penalty: float, seed: int) -> np.ndarray:
    """What a rule says to each row, fitted on the others' folds, before calibration: (rows, values)."""
    count = len(part.heard)
    if rule not in (STACKING, GATE) or count < LEAST_ROWS:
        return _said(part, rule, _fitted(part, rule, weights, penalty))
    fold = folds(part, seed)
    said = np.zeros((count, part.width))
    for number in range(FOLDS):
        within, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        said[outside] = _said(part.rows(outside), rule, _fitted(part.rows(within), rule, weights, penalty))
    return said


def folds(part: Part, seed: int) -> np.ndarray:
    """Each row's fold. Rows to which a member says exactly the same share what it was shown (a recording used twice): one fold has both.

    Else a rule would be judged on what it was fitted on: of digits, each of whose recordings is in two rows, stacking came out best on val
    (0.28 a row, the average 0.52) and far behind the average on other voices.
    """
    count, members = part.heard.shape[0], part.heard.shape[2]
    group = np.arange(count)
    for _ in range(members):  # what two rows share may be told by a third: each pass joins over every member once more
        for member in range(members):
            _, same = np.unique(part.heard[:, 0, member], axis=0, return_inverse=True)
            first = np.full(same.max() + 1, count)
            np.minimum.at(first, same.reshape(-1), group)
            group = first[same.reshape(-1)]
    names, place = np.unique(group, return_inverse=True)
    if len(names) < FOLDS:  # members that say one thing to all
        return np.random.default_rng(seed).permutation(count) % FOLDS
    return (np.random.default_rng(seed).permutation(len(names)) % FOLDS)[place.reshape(-1)]


def _said(part: Part, rule: str, parameters: Arrays) -> np.ndarray:
    mask = np.ones((1, part.heard.shape[2]))
    k: dict[str, Any] = {**joint_ops.rule_constants(mask, [rule], part.width), **parameters}
    said: np.ndarray = joint_ops.said(OPS, part.task, rule, part.heard, k)
    return said[:, 0, 0]


def _calibration(part: Part, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if part.task in ("classification", "multilabel"):
        return calibration.calibrated(part.task, said, part.wanted())
    return np.ones(part.width), np.zeros(part.width)


def _at(said: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return said * scale + shift  # type: ignore[no-any-return]


def _fitted(part: Part, rule: str, weights: np.ndarray, penalty: float) -> dict[str, np.ndarray]:
    """A rule's own parameters, of a single subset that hears all of ``part``'s members."""
    start = joint_ops.rule_parameters(np.ones((1, part.heard.shape[2])), [rule], part.task, part.width)
    if rule == WEIGHTED:
        start["weights"] = np.repeat((weights / weights.sum())[None, None, :, None], part.width, 3)
    if rule == STACKING:
        return {**start, **learning.stacked(part.task, part.heard, part.wanted(), start, penalty)}
    if rule == GATE:
        return {**start, **learning.gated(part.task, part.heard, part.wanted(), start, penalty)}
    return start
