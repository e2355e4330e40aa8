"""Samples that ranges are taken from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgemm.contracts.step import Context
from edgemm.data import dataset as data
from edgemm.data.outliers import Channel, clip, outlying
from edgemm.errors import QuantizeError
from edgemm.graph import parity

FEWEST = 2


def samples(model: onnx.ModelProto, ctx: Context, count: int) -> list[dict[str, np.ndarray]]:
    """Up to ``count`` single samples by graph input, from the dataset, or synthetic ones where there is none.

    A state is what the model made of the sample before.

    Raises:
        QuantizeError: Fewer than two are asked for, or left after bad rows were skipped.
        DataError: Fewer than two are there, or one cannot be read.
    """
    check(count)
    dataset = ctx.dataset if ctx.dataset is not None else data.synthetic(ctx.card, samples=count, seed=ctx.seed)
    ctx.progress("reading calibration samples", 0.0)
    rows = [dict(batch.inputs) for batch in dataset.calibration(count, seed=ctx.seed)]
    if len(rows) < FEWEST:
        why = "the other rows of the calib split (or train, where there is none) are broken and were skipped."
        raise _too_few(len(rows), why, f"mend rows until {FEWEST} are good; some hundreds are usual.")
    names = [value.name for value in model.graph.input]
    single = [{name: sample[name] for name in names} for sample in rows]
    states = _states(ctx)
    return list(_carried(model, single, states)) if states else single


def without_outliers(
    model: onnx.ModelProto, ctx: Context, samples: list[dict[str, np.ndarray]]
) -> tuple[list[dict[str, np.ndarray]], list[Channel]]:
    """``samples`` with values far out drawn to the nearest of the others, and the channels that hold some; a state is carried anew."""
    channels = outlying(ctx.card, samples)
    calm = [clip(row, channels) for row in samples] if channels else samples
    states = _states(ctx)
    return (list(_carried(model, calm, states)) if states and channels else calm), channels


def check(count: int) -> None:
    """Raises QuantizeError where fewer samples are asked for than say anything."""
    if count < FEWEST:
        raise _too_few(count, "ranges are taken over samples; one says nothing about their spread.", "set calibration_samples to 300.")


def _too_few(count: int, why: str, fix: str) -> QuantizeError:
    return QuantizeError(f"{count} calibration sample{'s' * (count != 1)}: too few to take ranges from.", why=why, fix=fix)


def _states(ctx: Context) -> dict[str, str]:
    """Input -> the output that is fed back into it."""
    return {name: str(spec.options["state"]) for name, spec in ctx.card.inputs.items() if spec.options.get("state")}


def _carried(model: onnx.ModelProto, single: list[dict[str, np.ndarray]], states: dict[str, str]) -> Iterator[dict[str, np.ndarray]]:
    """The samples in a row, each with the states that the model left behind after the one before."""
    session = parity.reference_session(model)
    outputs = list(states.values())
    carried: dict[str, np.ndarray] = {}
    for sample in single:
        fed = {**sample, **carried}
        yield fed
        carried = dict(zip(states, session.run(outputs, fed), strict=True))
