"""Post-training INT8: Q/DQ in the ONNX graph, with the numerics the target wants. Calibrated by NNCF on real samples."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Literal

import numpy as np
import onnx

from edgemm.errors import QuantizeError
from edgemm.graph.branches import Branches, find_branches
from edgemm.modalities._protocol import modalities
from edgemm.specs import Branch
from edgemm.steps._protocol import Context

STAGE = "graph"
PRECISIONS = ("int8", "fp32", "bf16", "fp16")
FEWEST_SAMPLES = 2
TRANSFORMER_SOFTMAXES = 2  # from this many attention blocks on, NNCF's transformer settings apply


def quantize(
    model: onnx.ModelProto,
    ctx: Context,
    *,
    method: Literal["ptq"] = "ptq",
    calibration_samples: int = 300,
    precision: dict[Branch, str] | None = None,
) -> onnx.ModelProto:
    """A Q/DQ copy of ``model``; front-ends and branches not marked int8 stay as they are.

    Args:
        calibration_samples: How many samples the ranges are taken from, at least 2.
        precision: Branch selector -> int8, fp32, bf16 or fp16; branches not named are int8.

    Raises:
        QuantizeError: Too few samples, an unknown precision, or NNCF cannot follow the graph.
    """
    branches = ctx.branches or find_branches(model, ctx.card)
    untouched = left_alone(branches, ctx, precision or {})
    samples = calibration(ctx, model, calibration_samples)
    quantized = _nncf(model, samples, untouched, ctx)
    if ctx.numerics.activations == "int8":
        make_signed(quantized)
    return quantized


def left_alone(branches: Branches, ctx: Context, precision: dict[str, str]) -> list[str]:
    """Names of the nodes that stay float: front-ends, and branches whose precision is not int8."""
    floats = set(branches.frontend)
    for selector, wanted in precision.items():
        if wanted not in PRECISIONS:
            raise QuantizeError(f"precision.{selector}: '{wanted}' is no precision.", fix=f"one of: {', '.join(PRECISIONS)}.")
        if wanted not in ("int8", *ctx.numerics.floats):
            raise QuantizeError(
                f"precision.{selector}: {ctx.target} has no {wanted}.", fix=f"one of: int8, {', '.join(ctx.numerics.floats)}."
            )
        if wanted != "int8":
            floats.update(node for branch in branches.select(selector, ctx.card) for node in branches.nodes(branch))
    return [name for name in branches.of_node if name in floats]


def calibration(ctx: Context, model: onnx.ModelProto, count: int) -> list[dict[str, np.ndarray]]:
    """Up to ``count`` single samples, keyed by graph input."""
    wanted = [value.name for value in model.graph.input]
    if ctx.dataset is None:
        found = list(synthetic(ctx, count))
    else:
        found = [dict(batch.inputs) for batch in ctx.dataset.calibration(count, seed=ctx.seed)]
    if len(found) < FEWEST_SAMPLES:
        raise QuantizeError(
            f"{len(found)} calibration sample{'' if len(found) == 1 else 's'}.",
            why=f"ranges need at least {FEWEST_SAMPLES} samples; some hundreds are usual.",
            fix="raise calibration_samples, or add rows to the calib or train split.",
        )
    return [{name: sample[name] for name in wanted} for sample in found]


def synthetic(ctx: Context, count: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(ctx.seed)
    kinds = modalities(ctx.card)
    for _ in range(count):
        sample = {}
        for name, kind in kinds.items():
            steps = ctx.card.inputs[name].steps
            one = np.stack([kind.synthetic(rng) for _ in range(steps)]) if steps else kind.synthetic(rng)
            sample[name] = one[None]
        yield sample


def _nncf(model: onnx.ModelProto, samples: list[dict[str, np.ndarray]], untouched: list[str], ctx: Context) -> onnx.ModelProto:
    with quiet():
        import nncf

        attention = sum(node.op_type == "Softmax" for node in model.graph.node) >= TRANSFORMER_SOFTMAXES
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric: MIXED does not compile everywhere (reference/tensorrt-jetson)
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    # SmoothQuant puts a Mul per channel before a quantizer. Between two linear layers OpenVINO 2026.4 then computes
                    # garbage: Linear -> Mul -> Q/DQ -> Linear, (1, 64) -> 128 -> 3, is off by 10^9 times its value, static or not.
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
                ),
                subset_size=len(samples),
                ignored_scope=nncf.IgnoredScope(names=untouched, validate=False),
            )
        except Exception as err:
            raise QuantizeError("NNCF could not quantize the graph.", why=" ".join(str(err).split())) from err


def make_signed(model: onnx.ModelProto) -> None:
    """Rewrite every uint8 zero-point-0 activation pair to int8 with the range kept: ``scale * 255 / 127``, in place."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if zero.data_type != onnx.TensorProto.UINT8 or zero.name in done:
            continue
        low, high = onnx.numpy_helper.to_array(zero).astype(np.float64), onnx.numpy_helper.to_array(scale).astype(np.float64)
        reach = np.maximum(low, 255 - low) * high / 127
        scale.CopyFrom(onnx.numpy_helper.from_array(reach.astype(np.float32), scale.name))
        zero.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(low, dtype=np.int8), zero.name))
        done.add(zero.name)
    stale = {o for node in model.graph.node if node.op_type == "QuantizeLinear" for o in node.output}
    kept = [value for value in model.graph.value_info if value.name not in stale]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines, bars or telemetry from NNCF."""
    os.environ.setdefault("NNCF_CI", "1")
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
