"""Fitting a joint on val: each member calibrated, each subset joined by the rule that answers rows best which it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgemm.contracts import joint_ops
from edgemm.contracts.joint import AVERAGE, JointHead, subset_name, subsets
from edgemm.data import calibration
from edgemm.pipeline.late_fusion.choosing import OPS, Part, Tried, chosen

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """A head's joint: its structure with the rules, the parameters, and what was tried."""

    head: JointHead
    parameters: Mapping[str, np.ndarray]
    tried: Sequence[Tried]


@dataclass(frozen=True)
class Rows:
    """What a head is fitted on.

    Attributes:
        task: Its task.
        answers: Member -> its answers (rows, values).
        there: Member -> bool (rows,).
        truth: (rows,) or (rows, values); of an embedding there is none.
        width: Labels or numbers of the head.
    """

    task: str
    answers: Arrays
    there: Arrays
    truth: np.ndarray | None
    width: int


def fit(
    head: JointHead, rows: Rows, *, rule: str = "", weights: Sequence[float] = (), elsewhere: Rows | None = None, seed: int = 0
) -> Fitted:
    """Fit a head.

    Args:
        head: Its members, groups and chances; rules are found here.
        rule: The one asked for, for every subset of two and more; "" tries ``joint.TRIED``.
        weights: Of the members, for the rule ``weighted``.
        elsewhere: Rows of train, on which a rule that was learned on val must not be worse than the average.
        seed: Of the folds.
    """
    names, shares = list(head.members), dict(zip(head.members, weights, strict=bool(weights)))
    widths = {member: 2 if member in head.single else rows.answers[member].shape[-1] for member in names}
    own = {key: value for member in names for key, value in _member(head, rows, member).items()}
    heard, others = _evidence(head, rows, own), None if elsewhere is None else _evidence(head, elsewhere, own)
    tried: list[Tried] = []
    best: dict[str, tuple[str, dict[str, np.ndarray]]] = {}
    for subset in subsets(names):
        part = _part(rows, heard, names, subset)
        other = None if others is None or elsewhere is None else _part(elsewhere, others, names, subset)
        taken, entries = chosen(part, rule, np.array([shares.get(member, 1.0) for member in subset]), seed, other)
        tried += [replace(entry, subset=subset_name(subset)) for entry in entries]
        best[subset_name(subset)] = taken
    head = replace(head, rules={subset: taken for subset, (taken, _) in best.items()})
    whole = joint_ops.parameters(head, rows.task, rows.width, widths) | own
    for number, subset in enumerate(subsets(names)):
        _place(whole, best[subset_name(subset)][1], number, [names.index(member) for member in subset])
    if rows.task == "regression":
        whole |= _in_its_unit(whole, *_spread(rows))
    return Fitted(head, {name: value.astype(np.float32) for name, value in whole.items()}, tried)


def answer(head: JointHead, rows: Rows, parameters: Arrays, *, hearing: Sequence[str] | None = None) -> np.ndarray:
    """What a fitted head answers, (rows, values): the one definition, in numpy.

    Args:
        hearing: The members that are there; None = those that each row has.
    """
    k = {**parameters, **joint_ops.constants(head, rows.task, rows.width)}
    parts = []
    for member in head.members:
        part = joint_ops.evidence(OPS, rows.task, rows.answers[member], k, head, member, rows.width)
        silent = ~rows.there[member] if hearing is None else np.full(len(part), member not in hearing)
        parts.append(np.where(silent[:, None, None], np.float32(joint_ops.ABSENT), part))
    joined: np.ndarray = joint_ops.joined(OPS, rows.task, parts, k, head, rows.width)
    return joined


def _member(head: JointHead, rows: Rows, member: str) -> dict[str, np.ndarray]:
    """Scale and shift of one member's answers, on the rows that have it."""
    if rows.task == "embedding":
        return {}
    assert rows.truth is not None  # only embeddings have none
    known = rows.there[member]
    answers, truth = _as_logits(head, rows.task, rows.answers[member][known].astype(np.float64), member), rows.truth[known]
    width = answers.shape[-1]
    scale, shift = np.ones((1, 1 if rows.task == "classification" else width)), np.zeros((1, width))
    if rows.task == "regression":
        scale, shift = _standard(answers, truth, *_spread(rows))
    elif rows.task == "multilabel" and member not in head.groups:
        scale, shift = (values[None] for values in calibration.calibrated("multilabel", answers, truth))
    elif rows.task == "classification" and width == 2 and member not in head.groups and not answers[:, 0].any():
        scale[0, 0], shift[0, 1] = calibration.platt(answers[:, 1], truth)  # one logit for two labels
    else:
        scale[:] = _temperature(head, rows, member, answers, truth)
    return {f"{member}.scale": scale.astype(np.float32), f"{member}.shift": shift.astype(np.float32)}


def _as_logits(head: JointHead, task: str, answers: np.ndarray, member: str) -> np.ndarray:
    """A member's answers as ``evidence`` reads them: chances as logits, one number for two labels as two."""
    if member in head.chances and (task == "multilabel" or member in head.single):
        answers = np.log(np.clip(answers, joint_ops.LEAST, 1)) - np.log(np.clip(1 - answers, joint_ops.LEAST, 1))
    elif member in head.chances:
        answers = np.log(np.clip(answers, joint_ops.LEAST_CHANCE, 1))
    return np.concatenate([np.zeros_like(answers), answers], 1) if member in head.single else answers


def _temperature(head: JointHead, rows: Rows, member: str, answers: np.ndarray, truth: np.ndarray) -> float:
    """One factor for all of a member's answers, judged in the head's labels."""
    plain = replace(head, rules=_placeholder(head), chances=(), single=())  # the answers are logits by now
    k = joint_ops.constants(plain, rows.task, rows.width)
    shift = np.zeros((1, answers.shape[-1]))

    def loss(factor: float) -> float:
        with_scale = {**k, f"{member}.scale": np.array([[factor]]), f"{member}.shift": shift}
        said = joint_ops.evidence(OPS, rows.task, answers, with_scale, plain, member, rows.width)
        return float(calibration.losses(rows.task, said[:, 0], truth).mean())

    return calibration.best_scale(loss)


def _placeholder(head: JointHead) -> dict[str, str]:
    return {subset_name(subset): AVERAGE for subset in subsets(list(head.members))}


def _spread(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of a regression's truth, (1, values)."""
    assert rows.truth is not None  # a regression has it
    truth = rows.truth.reshape(len(rows.truth), -1).astype(np.float64)
    return truth.mean(0, keepdims=True), np.maximum(truth.std(0, keepdims=True), 1e-12)


def _in_deviations(rows: Rows) -> np.ndarray:
    mean, deviation = _spread(rows)
    assert rows.truth is not None  # a regression has it
    return (rows.truth.reshape(len(rows.truth), -1) - mean) / deviation  # type: ignore[no-any-return]


def _standard(answers: np.ndarray, truth: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The line through a member's numbers that fits the truth best, in the truth's deviations."""
    wanted = (truth.reshape(answers.shape) - mean) / deviation
    centre = answers.mean(0, keepdims=True)
    spread = np.maximum(np.square(answers - centre).mean(0, keepdims=True), 1e-24)
    slope = ((answers - centre) * (wanted - wanted.mean(0, keepdims=True))).mean(0, keepdims=True) / spread
    return slope, wanted.mean(0, keepdims=True) - slope * centre


def _evidence(head: JointHead, rows: Rows, own: Arrays) -> np.ndarray:
    """(rows, 1, members, values), 0 where a row lacks a member."""
    k = {**own, **joint_ops.constants(replace(head, rules=_placeholder(head)), rows.task, rows.width)}
    parts = [joint_ops.evidence(OPS, rows.task, rows.answers[member], k, head, member, rows.width) for member in head.members]
    laid = np.concatenate([np.where(rows.there[m][:, None, None], part, 0) for m, part in zip(head.members, parts, strict=True)], 1)
    return laid[:, None].astype(np.float64)


def _part(rows: Rows, heard: np.ndarray, names: Sequence[str], subset: Sequence[str]) -> Part:
    """The rows that have all of a subset's members."""
    truth = _in_deviations(rows) if rows.task == "regression" else rows.truth
    known = np.all([rows.there[member] for member in subset], axis=0)
    places = [names.index(member) for member in subset]
    return Part(rows.task, heard[known][:, :, places], None if truth is None else truth[known], rows.width)


def _place(whole: dict[str, np.ndarray], own: Arrays, number: int, places: Sequence[int]) -> None:
    """One subset's parameters among those of all; what its joint does not hear stays 0."""
    for key in ("weights", "mixing", "gate_best", "gate_even", "gate_bias"):
        if key not in own:
            continue
        target, value = whole[key][0, number], own[key][0, 0]
        if key == "weights":
            target[:] = 0
            target[places] = value
        elif key == "mixing":
            target[:, places] = value
        elif key == "gate_bias":
            target[places] = value
        else:
            target[np.ix_(places, places)] = value
    for key in ("bias", "scale", "shift"):
        whole[key][0, number] = own[key][0, 0]


def _in_its_unit(whole: Arrays, mean: np.ndarray, deviation: np.ndarray) -> dict[str, np.ndarray]:
    """A regression's answer is told in its own unit again."""
    count = whole["scale"].shape[1]
    return {"scale": np.repeat(deviation[None, None], count, 1), "shift": np.repeat(mean[None, None], count, 1)}
