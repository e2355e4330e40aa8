"""Which quantized form of a model answers val better: with values far out or without, by which rule of ranges, with which biases.

What labels prove decides. Where they prove nothing, as on few rows or without labels, the form nearer to the float model's answers is
taken, but it has to be clearly nearer and must not score worse: a tail may be what the model was trained to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.contracts.step import Context
from edgemm.contracts.task import Score
from edgemm.data.outliers import Channel, describe
from edgemm.graph import parity

ROWS = 300  # of val
FEW_ROWS = 60  # of val, of models that take long
BATCH_SIZE = 1  # what ships: a graph may have written it down somewhere
CLEARLY = 0.9  # of the other's distance to the float answers
FAR = 0.02
"""From here on, as a share of the float answers, other rules are tried. (Digits: 0.016, and 0.040 and 0.031 where a point is lost.)"""
FEWEST = 30  # rows with labels; fewer prove nothing
SPLITS = ("val", "calib", "train")


def better(model: onnx.ModelProto, whole: onnx.ModelProto, clipped: onnx.ModelProto, channels: Sequence[Channel], ctx: Context) -> bool:
    """Whether ``clipped`` answers better than ``whole``; which does, and where values are far out, is noted.

    Args:
        model: The float graph.
        channels: Where they are.
    """
    split = _split(ctx)
    if not split:
        return False
    ctx.progress("choosing ranges", 0.0)
    floats, kept, left_out = (_answers(graph, ctx, split) for graph in (model, whole, clipped))
    losses = _losses(kept, left_out, ctx)
    distances = _distance(floats, kept), _distance(floats, left_out)
    wins = wins_over(list(losses.values()), distances)
    told = [channel for channel in channels if wins or channel.gap]
    if told:
        ctx.note(f"calibration rows hold values far from all others: {describe(told)}. {_words(losses, distances, split, wins=wins)}")
    return wins


def best(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    others: Mapping[str, Callable[[], onnx.ModelProto]],
    ctx: Context,
    *,
    rows: int = ROWS,
) -> onnx.ModelProto:
    """``quantized``, or where that is far from the float model's answers, the one of ``others`` that answers better; noted.

    Args:
        model: The float graph.
        others: What it is made by, in words -> it, made only when it is tried.
        rows: So many of val decide.
    """
    split = _split(ctx)
    if not split or not others:
        return quantized
    floats, kept = (_answers(graph, ctx, split, rows) for graph in (model, quantized))
    if max((score.n for score in _losses(floats, kept, ctx).values()), default=0) < FEWEST:
        return quantized
    far = _distance(floats, kept)
    if far < FAR and not any(loss.low is not None and loss.low > 0 for loss in _losses(floats, kept, ctx).values()):
        return quantized
    name = ""
    for number, (words, make) in enumerate(others.items()):
        ctx.progress("choosing ranges", number / len(others))
        other = make()
        answered = _answers(other, ctx, split, rows)
        losses, distance = _losses(kept, answered, ctx), _distance(floats, answered)
        if wins_over(list(losses.values()), (far, distance)):
            name, gains = words, _gains(losses, (far, distance))
            quantized, kept, far = other, answered, distance
    if name:
        ctx.note(f"INT8 ranges are taken by {name}, which {gains} on {split} against the rule before it.")
    return quantized


def wins_over(losses: Sequence[Score], distances: tuple[float, float]) -> bool:
    """Whether to take the other form.

    Args:
        losses: What it loses, of each output with labels; below 0 where it gains.
        distances: To the float model's answers, of the form in hand and of the other.
    """
    gained = any(loss.high is not None and loss.high < 0 for loss in losses)
    lost = any(loss.low is not None and loss.low > 0 for loss in losses)
    if gained != lost:
        return gained
    return sum(loss.value for loss in losses) <= 0 and distances[1] < CLEARLY * distances[0]


def _split(ctx: Context) -> str:
    """The rows to look at, "" where there are none."""
    return next((name for name in SPLITS if ctx.dataset is not None and name in ctx.dataset.splits()), "")


def _words(losses: dict[str, Score], distances: tuple[float, float], split: str, *, wins: bool) -> str:
    if not wins:
        return f"INT8 ranges hold them: leaving them out does not answer {split} better. Mend these rows if nobody measured that."
    return f"INT8 ranges leave them out, which {_gains(losses, distances)} on {split}. Mend these rows if nobody measured that."


def _gains(losses: Mapping[str, Score], distances: tuple[float, float]) -> str:
    gains = ", ".join(f"{-loss.value:.3g} {loss.unit} of '{name}'".replace("  ", " ") for name, loss in losses.items() if loss.value)
    off = f"brings answers to {100 * distances[1]:.2g} % off the float model's instead of {100 * distances[0]:.2g} %"
    return f"gains {gains}" if gains else off


def _answers(graph: onnx.ModelProto, ctx: Context, split: str, rows: int = ROWS) -> Answers:
    session, parts, truth = parity.reference_session(graph), list[list[np.ndarray]](), list[dict[str, np.ndarray]]()
    names = [value.name for value in session.get_outputs()]
    wanted = [value.name for value in session.get_inputs()]
    assert ctx.dataset is not None  # its splits were asked for
    for batch in ctx.dataset.batches(split, BATCH_SIZE, limit=rows):
        parts.append(session.run(names, {name: batch.inputs[name] for name in wanted}))
        truth.append(batch.truth)
    answers = {
        name: np.concatenate([np.atleast_1d(value) for value in values])
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }
    return Answers(answers, {name: np.concatenate([part[name] for part in truth]) for name in truth[0]})


def _losses(before: Answers, after: Answers, ctx: Context) -> dict[str, Score]:
    scored = {name: task for name, task in tasks.tasks(ctx.card).items() if task.is_scored and name in before.truth}
    return {
        name: task.measure(before.predictions, truth := before.truth[name]).drop(task.measure(after.predictions, truth))
        for name, task in scored.items()
    }


def _distance(floats: Answers, other: Answers) -> float:
    """How far answers are off as a share of the float model's, a row counting no more than 1, on average over rows and outputs."""
    shares = []
    for name, values in floats.predictions.items():
        flat = values.reshape(len(values), -1).astype(np.float64)
        error = np.linalg.norm(other.predictions[name].reshape(flat.shape) - flat, axis=1)
        shares.append(np.minimum(1.0, error / np.maximum(np.linalg.norm(flat, axis=1), 1e-9)).mean())
    return float(np.mean(shares)) if shares else 0.0
