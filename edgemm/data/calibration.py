"""How far chances mean what they say, and the scale and shift that let them: reliability, ECE, temperature, Platt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgemm.contracts.judged_parts import Reliability

BINS = 15  # as Guo et al., On calibration of modern neural networks (ICML 2017), count them
STEPS = 48  # of the golden section, each to 0.62 of the span: a scale is then known to 1e-9 of itself
SCALES = (1e-2, 1e2)
NEWTON_STEPS = 30
LEAST_EACH = 5  # rows of either kind behind a scale of a label's own
PRIOR = 1e-3  # pulls Platt's scale and shift to 1 and 0, as many rows' weight as a thousandth of all

GOLDEN = (5**0.5 - 1) / 2


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # type: ignore[no-any-return]


def losses(task: str, answers: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each row's loss: negative log-likelihood of a classification or a multilabel (mean over labels), squared error else."""
    if task == "classification":
        return -log_softmax(answers)[np.arange(len(truth)), truth]  # type: ignore[no-any-return]
    if task == "multilabel":
        signed = np.where(truth > 0.5, answers, -answers).astype(np.float64)
        return np.logaddexp(0, -signed).mean(-1)  # type: ignore[no-any-return]
    return np.square(answers.astype(np.float64) - truth.reshape(answers.shape)).reshape(len(truth), -1).mean(-1)  # type: ignore[no-any-return]


def best_scale(loss: Callable[[float], float]) -> float:
    """The factor in ``SCALES`` with the least loss, by golden section over its logarithm (the loss of a temperature has one minimum)."""
    low, high = np.log(SCALES[0]), np.log(SCALES[1])
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(float(np.exp(left))), loss(float(np.exp(right)))
    for _ in range(STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(float(np.exp(left)))
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(float(np.exp(right)))
    return float(np.exp((low + high) / 2))


def platt(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Scale and shift of one label's logits, (n,), by Newton's method (Platt 1999); (1, 0) where either answer is rare."""
    yes = truth.astype(np.float64)
    if min(yes.sum(), len(yes) - yes.sum()) < LEAST_EACH:
        return 1.0, 0.0
    x = np.stack([logits.astype(np.float64), np.ones(len(yes))], 1)
    start = np.array([1.0, 0.0])
    w, prior = start.copy(), PRIOR * len(yes) * np.eye(2)
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ w, -60, 60)))
        gradient = x.T @ (chance - yes) + prior @ (w - start)
        step = np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + prior, gradient)
        w = w - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return (float(w[0]), float(w[1])) if w[0] > 0 else (1.0, 0.0)


def calibrated(task: str, answers: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift, (values,) each, after which ``answers`` are best calibrated: a temperature, or Platt's for each label."""
    width = answers.shape[-1]
    if task == "classification":
        scale = best_scale(lambda factor: float(losses(task, answers * factor, truth).mean()))
        return np.full(width, scale), np.zeros(width)
    pairs = [platt(answers[:, label], truth[:, label]) for label in range(width)]
    return np.array([scale for scale, _ in pairs]), np.array([shift for _, shift in pairs])


def reliability(task: str, answers: np.ndarray, truth: np.ndarray) -> Reliability:
    """How often answers are right that are so and so sure: of a classification the best label, of a multilabel every label's yes.

    ECE: the mean distance between how sure and how right, weighted by rows, over ``BINS`` bins of equal width.
    """
    if task == "classification":
        chances = np.exp(log_softmax(answers))
        sure, right = chances.max(-1), (chances.argmax(-1) == truth).astype(float)
    else:
        sure, right = (1 / (1 + np.exp(-np.clip(answers.astype(np.float64), -60, 60)))).reshape(-1), (truth > 0.5).astype(float).reshape(-1)
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    points = [
        (float(sure[place == number].mean()), float(right[place == number].mean()), int((place == number).sum()))
        for number in range(BINS)
        if (place == number).any()
    ]
    ece = sum(count * abs(said - was) for said, was, count in points) / max(len(sure), 1)
    return Reliability(ece, points)
