"""What a joint computes, once for numpy (fitting), torch (training on) and ONNX (the box): a formula over a handful of operations.

A member's answer becomes *evidence*: calibrated, in the head's labels. The evidence of all members is laid together, (rows, members,
values); which of them are there is read from it, since a member that is not gives ``ABSENT`` everywhere. Every subset of members has its
own joint, all are computed (they are tiny), and the one of the subset that is there is taken.

Evidence: log-chances of a classification, in [-30, 0]; logits of a multilabel, in [-30, 30]; a regression in deviations of the truth;
unit vectors of an embedding. Rules, after Kittler et al., On combining classifiers (PAMI 1998): ``average`` multiplies chances (sums
log-odds), ``noisy_or`` lets one member suffice, ``stacking`` is a logistic regression on the evidence (Wolpert 1992), ``gate`` a mixture
whose weights follow from how sure each member is (Jacobs et al. 1991). A scale (a temperature: Guo et al., On calibration of modern
neural networks, 2017) and a shift (Platt 1999) of its own calibrate what each subset says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from edgemm.contracts import joint as rules
from edgemm.contracts.joint import JointHead, subsets
from edgemm.contracts.specs import SHUT

ABSENT = -3e4
"""What stands in for the evidence of a member that is not there: below ``SHUT``, and finite in half precision."""
LOW = -30.0
"""The least log-chance and logit: exp of it is nothing in float32, and sums of it stay finite in half precision."""
FAR = -60.0
"""Added to what a subset does not hear, so that a maximum and a softmax pass it over."""
LEAST = 1e-6
"""The least chance that a logarithm is taken of, where members' chances were multiplied."""
LEAST_CHANCE = 1e-13  # exp(LOW)
TIE = 1e-3  # a vote's share that the mean evidence has: it decides between equal counts
MOST_MIXED = 32  # labels up to which stacking weighs every label of every member for each label of the head

T = TypeVar("T")


class Ops(Protocol[T]):
    """Operations on arrays beside ``+``, ``-`` and ``*``, which broadcast as numpy's do. Axes that are reduced stay, of size 1."""

    def exp(self, x: T) -> T: ...

    def log(self, x: T) -> T: ...

    def clip(self, x: T, low: float, high: float) -> T: ...

    def sum(self, x: T, axis: int) -> T: ...

    def max(self, x: T, axis: int) -> T: ...

    def min(self, x: T, axis: int) -> T: ...

    def log_softmax(self, x: T) -> T:
        """Over the last axis."""
        ...

    def above(self, x: T, limit: float) -> T:
        """1.0 where an entry is above ``limit``, else 0.0."""
        ...

    def reshape(self, x: T, *sizes: int) -> T:
        """Sizes behind the rows."""
        ...

    def concat(self, parts: Sequence[T]) -> T:
        """Along axis 1."""
        ...


class NumpyOps:
    """float64 or float32, as it comes."""

    def exp(self, x: np.ndarray) -> np.ndarray:
        return np.exp(x)  # type: ignore[no-any-return]

    def log(self, x: np.ndarray) -> np.ndarray:
        return np.log(x)  # type: ignore[no-any-return]

    def clip(self, x: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.clip(x, low, high)  # type: ignore[no-any-return]

    def sum(self, x: np.ndarray, axis: int) -> np.ndarray:
        return x.sum(axis, keepdims=True)  # type: ignore[no-any-return]

    def max(self, x: np.ndarray, axis: int) -> np.ndarray:
        return x.max(axis, keepdims=True)  # type: ignore[no-any-return]

    def min(self, x: np.ndarray, axis: int) -> np.ndarray:
        return x.min(axis, keepdims=True)  # type: ignore[no-any-return]

    def log_softmax(self, x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # type: ignore[no-any-return]

    def above(self, x: np.ndarray, limit: float) -> np.ndarray:
        return (x > limit).astype(x.dtype)

    def reshape(self, x: np.ndarray, *sizes: int) -> np.ndarray:
        return x.reshape(-1, *sizes)

    def concat(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts, 1)


def evidence(ops: Any, task: str, answer: Any, k: Mapping[str, Any], head: JointHead, member: str, width: int) -> Any:
    """What one member's answer says to a head: (rows, 1, ``width``).

    Args:
        ops: An ``Ops``; ``answer`` and the entries of ``k`` are its arrays.
        task: Of the head: classification, multilabel, regression or embedding.
        answer: (rows, labels of the member), or the numbers of a regression or an embedding.
        k: Parameters and constants, as ``parameters`` and ``constants`` name them.
        width: Labels or numbers of the head.
    """
    if task == "embedding":
        vector = ops.reshape(answer, width)
        size = ops.clip(ops.sum(vector * vector, 1), 1e-12, 1e30)
        return ops.reshape(vector * ops.exp(ops.log(size) * k["half"]), 1, width)
    if member in head.chances:
        is_of_each = task == "multilabel" or member in head.single
        answer = (
            ops.log(ops.clip(answer, LEAST, 1.0)) - ops.log(ops.clip(k["one"] - answer, LEAST, 1.0))
            if is_of_each
            else (ops.log(ops.clip(answer, LEAST_CHANCE, 1.0)))
        )
    if member in head.single:
        answer = answer * k["second"]
    value = answer * k[f"{member}.scale"] + k[f"{member}.shift"]
    grouped = k.get(f"{member}.groups")
    if task == "regression":
        return ops.reshape(value, 1, width)
    if task == "classification":
        value = ops.log_softmax(value)
        if grouped is not None:
            count = sum(map(len, head.groups[member]))
            value = ops.log(ops.clip(ops.sum(ops.reshape(ops.exp(value), count, 1) * grouped, 1), LEAST_CHANCE, 1.0))
        return ops.reshape(ops.clip(value, LOW, 0.0), 1, width)
    if grouped is not None:
        count = sum(map(len, head.groups[member]))
        value = ops.max(ops.reshape(value, count, 1) + grouped, 1)
    return ops.reshape(ops.clip(value, LOW, -LOW), 1, width)


def joined(ops: Any, task: str, parts: Sequence[Any], k: Mapping[str, Any], head: JointHead, width: int) -> Any:
    """A head's answer, (rows, ``width``): that of the joint of those members that are there.

    Args:
        ops, task, k, width: As for ``evidence``.
        parts: Each member's evidence, in the order of ``head.members``, or ``ABSENT`` in its place.
    """
    count, members = len(head.rules), len(head.members)
    laid = ops.concat(parts)
    there = ops.above(ops.max(laid, 2), SHUT)
    heard = ops.reshape(laid * there, 1, members, width)
    apart = ops.reshape(there, 1, members) - k["mask"]
    is_it = ops.min(k["one"] - apart * apart, 2)
    answers = None
    for kind in _kinds(head.rules.values()):
        chosen = said(ops, task, kind, heard, k) * k[f"select.{kind}"]
        answers = chosen if answers is None else answers + chosen
    calibrated = ops.reshape(answers * k["scale"] + k["shift"], count, width)
    return ops.reshape(ops.sum(ops.reshape(is_it, count, 1) * calibrated, 1), width)


def said(ops: Any, task: str, rule: str, heard: Any, k: Mapping[str, Any]) -> Any:
    """What a rule makes of evidence, for several subsets at once and before calibration: (rows, subsets, 1, values).

    Args:
        heard: (rows, 1, members, values), 0 where a member is not there.
        k: ``hears`` says which members each subset hears.
    """
    return _RULES[_kind(rule)](ops, task, heard, k)


def _linear(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    total = ops.sum(heard * k["weights"], 2) + k["bias"]
    if "mixing" in k:  # (1, subsets, values, members, values): every value of every member for each of the head
        _, count, values, members, _ = k["mixing"].shape
        each = ops.reshape(heard, 1, 1, members, values) * k["mixing"]
        total = total + ops.reshape(ops.sum(ops.sum(each, 4), 3), count, 1, values)
    return total


def _noisy_or(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    none = ops.sum(ops.log(ops.clip(k["one"] - _chance(ops, task, heard, k), LEAST, 1.0)) * k["hears"], 2)
    some = ops.log(ops.clip(k["one"] - ops.exp(none), LEAST, 1.0))
    return some if task == "classification" else some - none


def _max(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    return ops.max(heard + k["unheard"], 2)


def _vote(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    if task == "classification":
        voice = ops.above(heard - ops.max(heard, 3), -LEAST)
    else:
        yes = ops.above(heard, 0.0)
        voice = yes + yes - k["one"]
    return ops.sum((voice + heard * k["tie"]) * k["hears"], 2)


def _gate(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    share = gate_shares(ops, task, heard, k)
    if task == "classification":
        return ops.log(ops.clip(ops.sum(share * ops.exp(heard), 2), LEAST_CHANCE, 1.0))
    chance = ops.clip(ops.sum(share * _chance(ops, task, heard, k), 2), LEAST, 1.0 - LEAST)
    return ops.log(chance) - ops.log(k["one"] - chance)


def gate_shares(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    """How much a gate listens to each member, (rows, subsets, members, 1): a softmax, linear in how sure each of them is."""
    first, second = sureness(ops, task, heard, k)
    first, second = (ops.sum(turned(ops, value, k) * k[name], 3) for value, name in ((first, "gate_best"), (second, "gate_even")))
    score = first + second + k["gate_bias"] + k["unheard"]
    weight = ops.exp(score - ops.max(score, 2))
    return weight * ops.exp(k["zero"] - ops.log(ops.sum(weight, 2)))


def sureness(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> tuple[Any, Any]:
    """(rows, 1, members, 1) twice: of a classification the best log-chance and the negative entropy, of a multilabel mean size and mean."""
    if task == "classification":
        return ops.max(heard, 3), ops.sum(ops.exp(heard) * heard, 3)
    yes = ops.above(heard, 0.0)
    return ops.sum(heard * (yes + yes - k["one"]), 3) * k["per_value"], ops.sum(heard, 3) * k["per_value"]


def turned(ops: Any, value: Any, k: Mapping[str, Any]) -> Any:
    """(rows, 1, members, 1) -> (rows, 1, 1, members)."""
    return ops.reshape(value, 1, 1, k["hears"].shape[2])


def _chance(ops: Any, task: str, heard: Any, k: Mapping[str, Any]) -> Any:
    """Of each label by itself; a sigmoid where it is a logit: exp(x) / (1 + exp(x))."""
    if task == "classification":
        return ops.exp(heard)
    return ops.exp(heard - ops.log(k["one"] + ops.exp(heard)))


_RULES = {"linear": _linear, rules.NOISY_OR: _noisy_or, rules.MAX: _max, rules.VOTE: _vote, rules.GATE: _gate}


def _kind(rule: str) -> str:
    return rule if rule in _RULES else "linear"


def _kinds(chosen: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_kind(rule) for rule in chosen))


def parameters(head: JointHead, task: str, width: int, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """What is fitted, at its start: name -> float32.

    Args:
        width: Labels or numbers of the head.
        widths: Member -> how many values it answers with.
    """
    start: dict[str, np.ndarray] = {}
    for member in head.members if task != "embedding" else ():
        start[f"{member}.scale"] = np.ones((1, 1 if task == "classification" else widths[member]), np.float32)
        start[f"{member}.shift"] = np.zeros((1, widths[member]), np.float32)
    return start | rule_parameters(_mask(head), list(head.rules.values()), task, width)


def rule_parameters(mask: np.ndarray, chosen: Sequence[str], task: str, width: int) -> dict[str, np.ndarray]:
    """Of the rules alone.

    Args:
        mask: (subsets, members), 1 where a subset hears a member.
        chosen: Each subset's rule.
    """
    count, members = mask.shape
    start = {"weights": np.repeat((mask / mask.sum(1, keepdims=True))[None, :, :, None], width, 3), "bias": np.zeros((1, count, 1, width))}
    if rules.STACKING in chosen and task == "classification" and width <= MOST_MIXED:
        start["mixing"] = np.zeros((1, count, width, members, width))
    if rules.GATE in chosen:
        start |= {name: np.zeros((1, count, members, members)) for name in ("gate_best", "gate_even")}
        start["gate_bias"] = np.zeros((1, count, members, 1))
    start |= {"scale": np.ones((1, count, 1, width)), "shift": np.zeros((1, count, 1, width))}
    return {name: value.astype(np.float32) for name, value in start.items()}


def constants(head: JointHead, task: str, width: int) -> dict[str, np.ndarray]:
    """What follows from the structure: name -> float32."""
    known = rule_constants(_mask(head), list(head.rules.values()), width)
    for member, groups in head.groups.items():
        table = np.zeros((1, sum(map(len, groups)), width), np.float32)
        for label, places in enumerate(groups):
            table[0, list(places), label] = 1
        known[f"{member}.groups"] = table if task == "classification" else (1 - table) * np.float32(FAR)
    return known


def rule_constants(mask: np.ndarray, chosen: Sequence[str], width: int) -> dict[str, np.ndarray]:
    """Of the rules alone; arguments as for ``rule_parameters``."""
    hears = mask[None, :, :, None]
    known = {"mask": mask[None], "hears": hears, "unheard": (1 - hears) * FAR, "zero": np.zeros(1), "one": np.ones(1)}
    known |= {"second": np.array([[0.0, 1.0]]), "tie": np.full(1, TIE), "half": np.full(1, -0.5), "per_value": np.full(1, 1 / width)}
    for kind in _kinds(chosen):
        known[f"select.{kind}"] = np.array([float(_kind(rule) == kind) for rule in chosen]).reshape(1, -1, 1, 1)
    return {name: value.astype(np.float32) for name, value in known.items()}


def _mask(head: JointHead) -> np.ndarray:
    members = list(head.members)
    return np.array([[float(member in subset) for member in members] for subset in subsets(members)])
