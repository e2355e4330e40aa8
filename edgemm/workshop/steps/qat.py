"""Quantization-aware training: INT8 by training with rounded weights and activations, where calibrating alone costs too much accuracy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from edgemm.contracts.card import Card
from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.data.in_memory import DecodedSplit, Splits, open_splits, without_outliers
from edgemm.data.outliers import describe
from edgemm.errors import QuantizeError, TrainError
from edgemm.workshop.models.folding import folded
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.quantized import QuantizedModel
from edgemm.workshop.models.row_by_row import require_own_answers_on
from edgemm.workshop.models.torch_branches import TorchBranches, find_parts, selected
from edgemm.workshop.quantizing import pt2e
from edgemm.workshop.training.answers import evaluate, tensors
from edgemm.workshop.training.distillation import Distillation
from edgemm.workshop.training.loop import train_model
from edgemm.workshop.training.loss import supervised_outputs
from edgemm.workshop.training.options import QAT, TrainOptions
from edgemm.workshop.training.outcome import Diverged, Trained
from edgemm.workshop.training.task_losses import LossHook
from edgemm.workshop.training.teacher import Teacher, require_same_heads

STAGE = "torch"
TRAINS_QUANTIZED = True
PACKAGES = ("accelerate", "torchao")
LAST = "its result is a graph with Q/DQ: it can be exported, but neither cut nor trained."
INT8 = "int8"
STILL_SHARE = 3  # ranges and batch norms stand still in the last third: weights settle on a grid that no longer moves


def qat(
    model: FusedModel,
    ctx: Context,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    learning_rate: float = 1e-4,
    batch_size: int = 64,
    accumulate: int = 1,
    distill: bool = True,
    temperature: float = 2.0,
    patience: int | None = None,
    precision: dict[Branch, str] | None = None,
    freeze_after: int | None = None,
    calibration_samples: int = 300,
) -> QuantizedModel:
    """A model trained to answer as before with symmetric int8 weights and activations; the last torch step.

    Front-ends, recurrent layers, norms and sums stay float. Measurements far from all others of their channel are left out of ranges and
    training where calibrating without them answers val no worse. The quantized start counts as epoch 0: what comes back is never worse on
    val than calibrating alone.

    Args:
        epochs: Passes over the train split; None = as ``steps`` says.
        steps: Batches to learn from, instead of ``epochs``, rounded up to whole passes; neither = 600, in at least 3 passes and at most
            200.
        learning_rate: A tenth of what trained the model is usual.
        distill: Learn the answers of the float teacher (the model before any compression) beside the labels.
        temperature: Softens both models' answers in distilling.
        patience: Stop after so many epochs without a better one on val; None = a quarter of all, at least 10; 0 = never.
        precision: Branch selector -> fp32, bf16 or fp16 for branches to leave in float; branches not named are int8.
        freeze_after: Epochs after which ranges and batch norms' statistics stand still; the default is two thirds.
        calibration_samples: How many samples the first ranges are taken from.

    Raises:
        TrainError: No data to train on, an option out of range, or a teacher with other heads.
        QuantizeError: An unknown precision, or nothing to quantize.
        ExportError: torch.export refuses the model; names module and line.
        Diverged: The loss turned NaN before there were good weights; names step and learning rate.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("model", "ctx")}
    check(ctx, **arguments)
    options, model = _options(arguments, ctx.seed), folded(model)
    require_own_answers_on(model, ctx.dataset)
    parts = find_parts(model)
    floats = _floats(parts, precision or {}, ctx)
    assert ctx.dataset is not None  # _require_data looked
    splits = open_splits(ctx.dataset, progress=ctx.progress, note=ctx.note)

    def calibrated(train: DecodedSplit) -> FusedModel:
        untrained = pt2e.prepare(model, parts.of_parameter, floats, is_narrow=ctx.numerics.narrow_weights)
        if not pt2e.trainee_of(untrained).layers:
            raise _nothing(floats)
        _calibrate(untrained, train, calibration_samples, batch_size)
        return untrained

    student, splits = _without_outliers(calibrated, splits, ctx)
    passes = options.passes(splits.train.steps(batch_size))
    pt2e.trainee_of(student).freeze_after = passes - passes // STILL_SHARE if freeze_after is None else freeze_after
    before = {"float": _on_val(model, splits.val), "rounded": _on_val(student, splits.val)}
    student, trained = _train(student, splits, options, _loss(model, ctx, splits, temperature) if distill else None, ctx)
    metrics = before | {"trained": _on_val(student, splits.val)}
    ctx.facts.update(_facts(ctx.card, pt2e.trainee_of(student).layers, floats, metrics, trained))
    return pt2e.convert(student, model, floats)


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises TrainError, QuantizeError."""
    _require_data(ctx)
    _options(given, ctx.seed).check()
    supported = (INT8, *ctx.numerics.floats)
    for selector, dtype in (given["precision"] or {}).items():
        if dtype not in supported:
            raise QuantizeError(
                f"precision.{selector}: '{dtype}' is no precision of target '{ctx.target}'.", fix=f"one of: {', '.join(supported)}."
            )
    if given["freeze_after"] is not None and given["freeze_after"] < 1:
        raise TrainError(f"freeze_after is {given['freeze_after']}.", fix="write at least 1 epoch, or leave it out.")
    if given["calibration_samples"] < 1:
        raise TrainError(f"calibration_samples is {given['calibration_samples']}.", fix="write at least 1; 300 is usual.")
    if not 0 < given["temperature"] < math.inf:
        raise TrainError(f"temperature is {given['temperature']}.", fix="write a number above 0; 2 is usual.")


def _options(arguments: Mapping[str, Any], seed: int) -> TrainOptions:
    """Those of the step's options that say how to train."""
    return TrainOptions(
        **{field.name: arguments[field.name] for field in fields(TrainOptions) if field.name in arguments}, seed=seed, usual=QAT
    )


def _require_data(ctx: Context) -> None:
    if ctx.dataset is None or not ctx.dataset.count("train") or (supervised_outputs(ctx.card) and not ctx.dataset.labelled):
        raise TrainError(
            "qat has no data to train on.",
            why="it trains the model with rounded weights, and needs rows with labels in a train split.",
            fix="give the dataset with -d, or take qat out of the recipe: quantize alone needs samples without labels only.",
        )


def _floats(parts: TorchBranches, precision: Mapping[str, str], ctx: Context) -> frozenset[str]:
    """Branches to leave in float; a later selector overrides an earlier one."""
    chosen: dict[str, bool] = {}
    for selector, dtype in precision.items():
        chosen.update(dict.fromkeys(selected(parts, selector, ctx.card), dtype != INT8))
    return frozenset(branch for branch, is_float in chosen.items() if is_float)


def _nothing(floats: frozenset[str]) -> QuantizeError:
    why = "convolutions, linear layers and embedding tables with weights of their own become int8; recurrent layers stay float."
    if floats:
        why = f"the branches {', '.join(sorted(floats))} are left in float, and the others have no such layer."
    return QuantizeError("qat finds nothing to quantize in this model.", why=why, fix="take qat out of the recipe, or change precision.")


def _without_outliers(calibrated: Callable[[DecodedSplit], FusedModel], splits: Splits, ctx: Context) -> tuple[FusedModel, Splits]:
    """The calibrated student and what it is to learn from, without measurements that are far out where that answers val no worse."""
    student, calm = calibrated(splits.train), without_outliers(splits.train)
    if not calm.channels or not splits.val.rows:
        return student, splits
    other = calibrated(calm)
    before, after = (evaluate(model, splits.val).statistics() for model in (student, other))
    gain = -sum(before[name].drop(after[name]).value for name in before)
    if gain < 0 or (not gain and not any(channel.gap for channel in calm.channels)):
        return student, splits
    ctx.note(
        f"qat: train holds values far from all others: {describe(calm.channels)}. It learned without them, which gained "
        f"{gain:.3g} on val before training. Mend these rows if nobody measured that."
    )
    return other, replace(splits, train=calm)


def _calibrate(student: FusedModel, train: DecodedSplit, samples: int, batch_size: int) -> None:
    """Take the first ranges, from the float model's values in eval mode."""
    trainee = pt2e.trainee_of(student.eval())
    trainee.round(False)
    trainee.observe(True)
    with torch.no_grad():
        for number, batch in enumerate(train.batches(min(batch_size, samples), shuffle=0)):
            if number >= math.ceil(samples / batch_size):
                break
            student(tensors(batch).inputs)
    trainee.observe(False)
    trainee.round(True)


def _loss(model: FusedModel, ctx: Context, splits: Splits, temperature: float) -> LossHook:
    """The labels' loss and the teacher's answers."""
    float_teacher = copy.deepcopy(ctx.teacher or model).eval()
    require_same_heads(float_teacher.card, ctx.card)
    rows = {split.name: split.rows for split in (splits.train, splits.val) if split.arrays is not None}
    teacher = Teacher(float_teacher, rows=rows, note=ctx.note)
    return Distillation(ctx.card, teacher, temperature=temperature, deviations=splits.deviations)


def _train(
    student: FusedModel, splits: Splits, options: TrainOptions, loss: LossHook | None, ctx: Context
) -> tuple[FusedModel, Trained | None]:
    """The student with its best weights, and what its training tells; None where that broke off."""
    try:
        return student, train_model(student, splits, options=options, loss=loss, judge_start=True, progress=ctx.progress, note=ctx.note)
    except Diverged as err:
        if err.kept is None or not err.best_epoch:
            raise Diverged(f"qat: {err.what}", why=err.why, fix=f"lower learning_rate (it is {options.learning_rate:g}).") from err
        ctx.note(f"qat stopped early: {err.what} The weights of epoch {err.best_epoch} are kept; a lower learning_rate may do better.")
        return err.kept, None


def _on_val(model: FusedModel, val: DecodedSplit) -> dict[str, Any]:
    return evaluate(model, val).measured() if val.rows else {}


def _facts(
    card: Card, layers: Mapping[str, int], floats: frozenset[str], metrics: Mapping[str, Mapping[str, Any]], trained: Trained | None
) -> dict[str, Any]:
    """What the report shows: INT8 layers per branch, the guarded metric on val in float, rounded and trained, and the curves."""
    shown: dict[str, Any] = {"int8_layers": dict(layers), "float_branches": sorted(floats)}
    for name in card.outputs:
        for when, values in metrics.items():
            if name in values:
                metric = next(iter(values[name]))
                shown.setdefault("val", {}).setdefault(f"{name} {metric}", {})[when] = values[name][metric]
    if trained is not None:
        shown |= trained.facts()
    return shown
