"""Rules of a joint that are learned: stacking (a logistic or linear regression on the evidence) and the gate (a mixture of members)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgemm.contracts import joint_ops
from edgemm.contracts.joint import GATE
from edgemm.contracts.joint_ops import NumpyOps

STEPS, RATE = 300, 0.05
"""Of Adam, on all rows at once: digits' stacking loses less than 1e-3 of a nat after the 200th."""
DECAYS = (0.9, 0.999)

Arrays = Mapping[str, np.ndarray]


def stacked(task: str, heard: np.ndarray, truth: np.ndarray, start: Arrays, penalty: float) -> dict[str, np.ndarray]:
    """``weights``, ``bias`` and, where ``start`` has it, ``mixing``.

    They start as the product of the members (each weight 1) and are drawn there by ``penalty``.

    Args:
        heard: Evidence (rows, 1, members, values).
        truth: As ``calibration.losses`` takes it.
    """
    evidence = heard[:, 0]
    rows, members, width = evidence.shape
    level = 1 / members if task == "regression" else 1.0
    free = {"weights": np.full((members, width), level), "bias": np.zeros(width)}
    if "mixing" in start:
        free["mixing"] = np.zeros((width, members, width))
    origin = {name: value.copy() for name, value in free.items()}
    flat = evidence.reshape(rows, -1)

    def gradient(at: Arrays) -> dict[str, np.ndarray]:
        said = (evidence * at["weights"]).sum(1) + at["bias"]
        if "mixing" in at:
            said = said + flat @ at["mixing"].reshape(width, -1).T
        error = _error(task, said, truth) / rows
        slopes = {"weights": np.einsum("nc,nmc->mc", error, evidence), "bias": error.sum(0)}
        if task == "classification":
            slopes["weights"] = np.repeat(slopes["weights"].mean(1, keepdims=True), width, 1)  # one weight a member: labels' are mixing's
        if "mixing" in at:
            slopes["mixing"] = (error.T @ flat).reshape(width, members, width)
        return {name: slope + 2 * penalty * (at[name] - origin[name]) for name, slope in slopes.items()}

    found = _descend(free, gradient)
    shaped = {"weights": found["weights"][None, None], "bias": found["bias"][None, None, None]}
    return shaped | ({"mixing": found["mixing"][None, None]} if "mixing" in found else {})


def gated(task: str, heard: np.ndarray, truth: np.ndarray, start: Arrays, penalty: float) -> dict[str, np.ndarray]:
    """``gate_best``, ``gate_even`` and ``gate_bias``; arguments as for ``stacked``.

    The gradient of a mixture's log-likelihood by a member's score is its share less its share in what really was (Jacobs et al. 1991).
    """
    ops, mask = NumpyOps(), np.ones((1, heard.shape[2]))
    constants = joint_ops.rule_constants(mask, [GATE], heard.shape[3])
    free = {name: start[name].astype(np.float64) for name in ("gate_best", "gate_even", "gate_bias")}
    first, second = (value[:, 0, :, 0] for value in joint_ops.sureness(ops, task, heard, constants))
    chances = _chances(task, heard[:, 0], truth)
    rows = len(heard)

    def gradient(at: Arrays) -> dict[str, np.ndarray]:
        shares = joint_ops.gate_shares(ops, task, heard, {**constants, **at})[:, 0, :, 0]
        really = shares[:, :, None] * chances
        really = (really / np.maximum(really.sum(1, keepdims=True), joint_ops.LEAST_CHANCE)).mean(2)
        error = (shares - really) / rows
        slopes = {
            "gate_best": (error.T @ first)[None, None],
            "gate_even": (error.T @ second)[None, None],
            "gate_bias": error.sum(0)[None, None, :, None],
        }
        return {name: slope + 2 * penalty * at[name] for name, slope in slopes.items()}

    return _descend(free, gradient)


def _error(task: str, said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The loss's slope by what was said."""
    if task == "classification":
        shifted = np.exp(said - said.max(1, keepdims=True))
        chance = shifted / shifted.sum(1, keepdims=True)
        chance[np.arange(len(truth)), truth] -= 1
        return chance  # type: ignore[no-any-return]
    if task == "multilabel":
        return (1 / (1 + np.exp(-np.clip(said, -60, 60))) - (truth > 0.5)) / said.shape[1]  # type: ignore[no-any-return]
    return 2 * (said - truth) / said.shape[1]  # type: ignore[no-any-return]


def _chances(task: str, evidence: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What each member gave to what really was: (rows, members, 1), or a label each."""
    if task == "classification":
        return np.exp(evidence[np.arange(len(truth)), :, truth])[:, :, None]  # type: ignore[no-any-return]
    return 1 / (1 + np.exp(-np.where(truth[:, None] > 0.5, evidence, -evidence)))


def _descend(free: Arrays, gradient: Callable[[Arrays], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Adam (Kingma & Ba, 2015) with a rate that falls to nothing; what comes out depends on nothing but what goes in."""
    at = {name: value.copy() for name, value in free.items()}
    means, squares = ({name: np.zeros_like(value) for name, value in free.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        rate = RATE * (1 - (step - 1) / STEPS)
        for name, slope in gradient(at).items():
            means[name] = DECAYS[0] * means[name] + (1 - DECAYS[0]) * slope
            squares[name] = DECAYS[1] * squares[name] + (1 - DECAYS[1]) * slope * slope
            mean, square = means[name] / (1 - DECAYS[0] ** step), squares[name] / (1 - DECAYS[1] ** step)
            at[name] = at[name] - rate * mean / (np.sqrt(square) + 1e-8)
    return at
