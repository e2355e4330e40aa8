"""How good predictions are, per head, with 95% intervals; and what a compressed model lost. numpy only: it runs on the box.

Every metric is an average over rows (or, for f1, has a per-row influence), so one pair of formulas gives the interval of a score and
the paired interval of a difference.

Shapes, n = rows, T = steps: classification predictions are logits (n, labels), truth int64 (n,); multilabel logits and truth
(n, labels); regression (n,), (n, 1) or (n, d); with ``per_step`` an axis T comes after n. An embedding's truth is the predictions
of its ``pair``. A tensor's truth is the reference output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.card import Output
from edgemm.errors import MeasureError

Z = 1.959964  # two-sided 95% of the normal distribution
SIMILARITY_ROWS = 1024  # rows of the similarity matrix held at a time: 40 MB for 10,000 candidates
TIE = 1e-6  # cosines closer than float32's rounding are one and the same


@dataclass(frozen=True)
class Score:
    """One metric of one output.

    Attributes:
        value: In ``unit``.
        low, high: 95% interval; None where a single row allows none.
        n: Rows behind it. The steps of a ``per_step`` output are averaged within their row: they are not independent.
        better: ``higher`` or ``lower``.
        per_point: What a budget's bare number counts in ``unit``: one, and for a regression's loss a hundredth of its labels' spread
            (their standard deviation), since its own unit says nothing about how much is much. None where no budget is held against it.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    better: str
    unit: str
    per_point: float | None = None


def guarded(output: Output) -> str:
    """The metric that budgets guard for this output: accuracy, f1 (macro), mae, recall_at_1; ``sqnr_db`` where there is no truth."""
    if output.task == "embedding":
        return "recall_at_1" if output.pair else "sqnr_db"
    return {"classification": "accuracy", "multilabel": "f1", "regression": "mae"}.get(output.task, "sqnr_db")


def measure(output: Output, predictions: np.ndarray, truth: np.ndarray) -> Score:
    """Score one output.

    Raises:
        MeasureError: No rows, shapes that do not belong together, or predictions that are not finite.
    """
    name = guarded(output)
    _check(output, predictions, truth)
    if name == "sqnr_db":
        return Score(name, _sqnr_db(truth, predictions), None, None, len(truth), "higher", "dB")
    value, rows = _value_and_rows(output, predictions, truth)
    n = len(rows)
    if name in ("accuracy", "recall_at_1"):
        low, high = _wilson(value, n)
        return Score(name, value, low, high, n, "higher", "ratio")
    if n < 2:
        return Score(name, value, None, None, n, "higher" if name == "f1" else "lower", "ratio" if name == "f1" else output.unit or "")
    half = Z * float(rows.std(ddof=1)) / n**0.5
    if name == "f1":
        return Score(name, value, max(0.0, value - half), min(1.0, value + half), n, "higher", "ratio")
    return Score(name, value, max(0.0, value - half), value + half, n, "lower", output.unit or "")


def drop(output: Output, before: np.ndarray, after: np.ndarray, truth: np.ndarray, *, pair_after: np.ndarray | None = None) -> Score:
    """What ``after`` lost against ``before``, both answers to the same rows.

    Args:
        truth: As in ``measure``. For an embedding it is the pair's predictions before, ``pair_after`` those after (default: unchanged).

    Returns:
        Score ``accuracy_drop_points``: 100 * (before - after) in points, or, for regression, mae after - mae before in its unit.
        Positive is a loss. The interval is paired: rows answered alike say nothing.

    Raises:
        MeasureError: As ``measure``; or the output has no metric.

    Source: Agresti & Min (2005), Statistics in Medicine 24: Wald interval for matched proportions with half a pseudo-row in each cell,
        so that two models that never disagree on n rows still may differ by about 2/n. f1: delta method.
    """
    name = guarded(output)
    if name == "sqnr_db":
        raise MeasureError(
            f"output '{output.name}' has no accuracy to lose.",
            why=f"its task is '{output.task}'" + (" without a pair." if output.task == "embedding" else "."),
            fix="compare its values as SQNR (the parity table), or give it a task with labels.",
        )
    _check(output, before, truth)
    _check(output, after, truth)
    first, rows_before = _value_and_rows(output, before, truth)
    second, rows_after = _value_and_rows(output, after, truth if pair_after is None else pair_after)
    if name == "mae":
        lost, rows, scale, bound, pseudo = second - first, rows_after - rows_before, 1.0, np.inf, 0.0
    else:
        lost, rows, scale, bound, pseudo = first - second, rows_before - rows_after, 100.0, 1.0, 0.0 if name == "f1" else 1.0
    low, high = _paired(lost, rows, pseudo, bound)
    unit = "points" if scale == 100.0 else output.unit or ""
    scaled = [None if edge is None else scale * edge for edge in (low, high)]
    per_point = float(np.std(truth.astype(np.float64))) / 100 if name == "mae" else 1.0
    return Score("accuracy_drop_points", scale * lost, scaled[0], scaled[1], len(rows), "lower", unit, per_point)


@dataclass(frozen=True)
class Term:
    """One term of ``combine``: a weight, and answers to the rows with their truth (for an embedding the pair's answers)."""

    weight: float
    predictions: np.ndarray
    truth: np.ndarray


def combine(output: Output, terms: Sequence[Term]) -> Score:
    """A weighted sum of one metric over several answers to the same rows, such as what an input contributes: with it minus without it.

    Returns:
        Score ``gain_points``: in points, or for regression in its unit; a smaller error counts as a gain. The interval is paired.

    Raises:
        MeasureError: As ``measure``; or the output has no metric.
    """
    name = guarded(output)
    if name == "sqnr_db":
        raise MeasureError(f"output '{output.name}' has no accuracy to compare.", fix="give it a task with labels.")
    total, rows = 0.0, np.zeros(1)
    for term in terms:
        _check(output, term.predictions, term.truth)
        value, found = _value_and_rows(output, term.predictions, term.truth)
        total, rows = total + term.weight * value, rows + term.weight * found
    sign, factor, bound, pseudo = (-1.0, 1.0, np.inf, 0.0) if name == "mae" else (1.0, 100.0, sum(abs(t.weight) for t in terms), 1.0)
    low, high = _paired(sign * total, sign * rows, 0.0 if name == "f1" else pseudo, bound)
    edges = [None if edge is None else factor * edge for edge in (low, high)]
    unit = output.unit or "" if name == "mae" else "points"
    return Score("gain_points", factor * sign * total, edges[0], edges[1], len(rows), "higher", unit)


def confusion(predictions: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Confusion matrix of a classification output: int64 (labels, labels), rows are the truth, columns what was answered."""
    count = len(labels)
    answered = predictions.argmax(axis=-1).reshape(-1)
    return np.bincount(truth.reshape(-1) * count + answered, minlength=count * count).reshape(count, count)


def confusions(
    outputs: Mapping[str, Output], truth: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """``details.confusion`` of a report: for each labelled classification output that was answered, its matrices as plain lists."""
    found: dict[str, Any] = {}
    for name, output in outputs.items():
        if output.task == "classification" and output.labels and name in truth and name in after:
            found[name] = {"labels": list(output.labels), "after": confusion(after[name], truth[name], output.labels).tolist()}
            if name in before:
                found[name]["before"] = confusion(before[name], truth[name], output.labels).tolist()
    return found


def _value_and_rows(output: Output, predictions: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The metric, and one value a row whose mean's variance is the metric's variance."""
    if output.task == "classification":
        rows = _mean_of_steps(predictions.argmax(axis=-1) == truth)
    elif output.task == "multilabel":
        return _macro_f1(predictions > 0, truth > 0.5)
    elif output.task == "regression":
        rows = _mean_of_steps(np.abs(predictions.astype(np.float64).reshape(truth.shape) - truth))
    else:
        rows = _hits(predictions, truth)
    return float(rows.mean()), rows


def _mean_of_steps(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64).mean(axis=1)


def _macro_f1(answered: np.ndarray, true: np.ndarray) -> tuple[float, np.ndarray]:
    """Macro F1 and its influence per row (n,): the first-order change of the score when the row is seen once more.

    A label that is neither there nor answered counts as 0, as in torchmetrics.
    """
    rows = len(true)
    labels = true.shape[-1]
    hit = (answered & true).reshape(rows, -1, labels).sum(axis=1).astype(np.float64)
    size = answered.reshape(rows, -1, labels).sum(axis=1) + true.reshape(rows, -1, labels).sum(axis=1).astype(np.float64)
    mean_size = size.mean(axis=0)
    safe = np.where(mean_size > 0, mean_size, 1.0)
    per_label = 2 * hit.mean(axis=0) / safe
    influence = ((2 * hit - per_label * size) / safe).mean(axis=1)
    return float(per_label.mean()), influence


def _hits(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """1 where a row's own partner is the nearest by cosine, 1/k where k candidates tie with it (a collapsed embedding scores 1/n)."""
    queries, candidates = _unit(queries), _unit(candidates)
    hits = np.empty(len(queries))
    for start in range(0, len(queries), SIMILARITY_ROWS):
        cosine = queries[start : start + SIMILARITY_ROWS] @ candidates.T
        own = cosine[np.arange(len(cosine)), start + np.arange(len(cosine))]
        best = cosine.max(axis=1)
        ties = (cosine >= (best - TIE)[:, None]).sum(axis=1)
        hits[start : start + len(cosine)] = np.where(own >= best - TIE, 1.0 / ties, 0.0)
    return hits


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.reshape(len(vectors), -1).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """10 log10 of signal power over the power of the difference; 200 where they are equal to the last bit."""
    reference = reference.astype(np.float64)
    noise = float(np.square(reference - other).sum())
    signal = float(np.square(reference).sum())
    return 200.0 if noise == 0 else -200.0 if signal == 0 else float(np.clip(10 * np.log10(signal / noise), -200, 200))


def _wilson(ratio: float, n: int) -> tuple[float, float]:
    """Wilson score interval. Source: Wilson (1927), JASA 22."""
    centre = (ratio + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * (ratio * (1 - ratio) / n + Z * Z / (4 * n * n)) ** 0.5
    return max(0.0, min(centre - half, ratio)), min(1.0, max(centre + half, ratio))


def _paired(mean: float, rows: np.ndarray, pseudo: float, bound: float) -> tuple[float | None, float | None]:
    """Interval of a mean of paired differences; ``pseudo`` rows of +1/2 and -1/2 weight keep it from closing to a point."""
    n = len(rows)
    if n < 2 and not pseudo:
        return None, None
    total, effective = float(rows.sum()), n + 2 * pseudo
    variance = max(0.0, float(np.square(rows).sum()) + pseudo - total * total / effective)
    half = Z * variance**0.5 / effective
    centre = total / effective if pseudo else mean
    return max(-bound, min(centre - half, mean)), min(bound, max(centre + half, mean))


def _check(output: Output, predictions: np.ndarray, truth: np.ndarray) -> None:
    if len(predictions) == 0 or len(predictions) != len(truth):
        raise MeasureError(
            f"output '{output.name}' cannot be scored: {len(predictions)} predictions for {len(truth)} rows.",
            fix="score every row of a split that has some.",
        )
    if not _belong_together(output, predictions.shape, truth.shape):
        raise MeasureError(
            f"output '{output.name}' cannot be scored: predictions {predictions.shape} and truth {truth.shape} do not belong together.",
            why=f"its task is '{output.task}'" + (", one answer a step." if output.per_step else "."),
            fix="check the output's task, labels and per_step in the card against what the model returns.",
        )
    broken = int((~np.isfinite(predictions.reshape(len(predictions), -1))).any(axis=1).sum())
    if broken:
        raise MeasureError(
            f"output '{output.name}' is not finite in {broken} of {len(predictions)} rows.",
            why="the model that answered computed NaN or infinity.",
            fix="look at the parity table for the first branch that differs.",
        )


def _belong_together(output: Output, predictions: tuple[int, ...], truth: tuple[int, ...]) -> bool:
    if output.task == "classification":
        return predictions[:-1] == truth
    if output.task == "regression":
        return int(np.prod(predictions)) == int(np.prod(truth))
    if output.task == "embedding" and output.pair:
        return int(np.prod(predictions[1:])) == int(np.prod(truth[1:]))
    return predictions == truth
