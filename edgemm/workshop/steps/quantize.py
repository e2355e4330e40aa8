"""Post-training INT8: Q/DQ in the ONNX graph, in the numerics the target wants, calibrated on real samples."""

from __future__ import annotations

from typing import Any, Literal

import onnx

from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.errors import EdgemmError, QuantizeError
from edgemm.graph import back_to_float, placement, symmetric_qdq, trained_qdq
from edgemm.graph.branches import Branches, drop_unread, find_branches
from edgemm.workshop.quantizing import calibration, nncf, onnxruntime, tensorrt

STAGE = "graph"
QUANTIZES = True
PACKAGES = ("nncf", "onnx", "onnxruntime")
PRECISIONS = ("int8", "fp32", "bf16", "fp16")
AUTO, DEFAULT = "auto", "default"


def quantize(
    model: onnx.ModelProto,
    ctx: Context,
    *,
    method: Literal["ptq"] = "ptq",
    calibration_samples: int = 300,
    ranges: Literal["minmax", "mean", "histogram"] = "minmax",
    precision: dict[Branch, str] | Literal["auto"] | None = None,
    on_miss: Literal["revert", "qat", "report"] = "revert",
) -> onnx.ModelProto:
    """A Q/DQ copy of ``model``.

    Front-ends, recurrent layers and branches not marked int8 stay in float. (Recurrent weights could be stored in one byte, but OpenVINO
    refuses that in some graphs: its GRU and LSTM want constants.) Of a graph that quantization-aware training (``qat``) made, only
    branches that it neither quantized nor left in float on purpose are calibrated; a branch asked for in float here loses its Q/DQ.

    Args:
        calibration_samples: How many samples the ranges are taken from, at least 2.
        ranges: How an activation's range follows from them: ``minmax`` over all, the ``mean`` of each sample's (clips the rare ones: on
            spoken digits it lost 1.3 points where minmax lost 0.4, both with biases corrected), or the ``histogram`` with the least error
            (slow on large models).
            ONNX Runtime's numerics always take minmax.
        precision: Branch selector -> int8, fp32, bf16, fp16 or auto; ``default`` stands for branches not named, which are int8 without it.
            ``auto`` alone is ``{default: auto}``. ``compress`` decides auto by timing each branch on the target; by itself this step
            takes it for int8.
        on_miss: What ``compress`` does where an accuracy budget is missed: ``revert`` the most harmful branches and layers to float,
            revert and then train with quantization (``qat``), or only ``report`` it. Nothing here.

    Raises:
        QuantizeError: Too few samples, an unknown precision, one the target lacks, or a graph that cannot be quantized.
    """
    branches = find_branches(model, ctx.card)
    untouched = left_alone(branches, ctx, {"default": precision} if isinstance(precision, str) else precision or {})
    if trained_qdq.has_pairs(model):
        model, untouched = _after_training(model, branches, ctx, precision, untouched)
        branches = find_branches(model, ctx.card)
    if ctx.numerics.placement == "fusing":
        untouched = tensorrt.left_alone(model, branches, untouched, ctx)
    if len(untouched) == len(branches.of_node):
        return _finished(_copy(model), ctx)
    samples = calibration.samples(model, ctx, calibration_samples)
    try:
        if ctx.numerics.activations == "uint8":
            quantized = onnxruntime.quantize(model, samples, untouched, ctx)
        else:
            quantized = nncf.quantize(model, samples, untouched, ctx, ranges)
    except EdgemmError:
        raise
    except Exception as err:  # neither library has a base class for its errors
        raise _failed(err, branches) from err
    _tidy(quantized)
    return _finished(quantized, ctx)


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises QuantizeError."""
    calibration.check(given["calibration_samples"])
    precision = given["precision"]
    for selector, word in ({DEFAULT: precision} if isinstance(precision, str) else precision or {}).items():
        _known(selector, word, ctx)


def _finished(model: onnx.ModelProto, ctx: Context) -> onnx.ModelProto:
    """``model`` in the form its target takes; changed in place."""
    if ctx.numerics.placement == "fusing":
        tensorrt.finish(model, ctx)
    elif ctx.numerics.activations == "int8":
        symmetric_qdq.make_symmetric(model)
    elif ctx.numerics.activations == "mixed":
        placement.read_floats(model)
    return model


def _after_training(
    model: onnx.ModelProto, branches: Branches, ctx: Context, precision: dict[str, str] | str | None, floats: list[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of a graph with Q/DQ, in the target's numerics, ``floats`` in float again; and the nodes in which nothing is left to do."""
    model = back_to_float.revert(model, model, set(floats))
    if ctx.numerics.activations == "uint8":
        trained_qdq.make_unsigned(model)
    precisions = precision if isinstance(precision, dict) else {}
    left = find_branches(model, ctx.card)
    done = {*floats, *trained_qdq.finished(model, left, ctx.card, precisions)}
    return model, [name for name in left.of_node if name in done]


def left_alone(branches: Branches, ctx: Context, precision: dict[str, str]) -> list[str]:
    """Names of the nodes that stay float, in graph order: front-ends, and branches whose precision is not int8.

    A later selector overrides an earlier one, so that ``{head: fp32, "head:event": int8}`` says what it seems to say.

    Raises:
        QuantizeError: An unknown precision, or one the target lacks.
    """
    floats: dict[str, bool] = {}
    for selector, word in sorted(precision.items(), key=lambda entry: entry[0] != DEFAULT):
        dtype = _known(selector, word, ctx)
        meant = branches.names() if selector == DEFAULT else branches.select(selector, ctx.card)
        floats.update(dict.fromkeys(meant, dtype != "int8"))
    return [name for name, branch in branches.of_node.items() if name in branches.frontend or floats.get(branch, False)]


def _known(selector: str, word: str, ctx: Context) -> str:
    """The precision that is meant; ``auto`` is int8 until somebody measured."""
    supported = ("int8", *ctx.numerics.floats)
    dtype = "int8" if word == AUTO else word
    if dtype not in PRECISIONS:
        raise QuantizeError(f"precision.{selector}: '{dtype}' is no precision.", fix=f"one of: {', '.join((*supported, AUTO))}.")
    if dtype not in supported:
        raise QuantizeError(f"precision.{selector}: target '{ctx.target}' has no {dtype}.", fix=f"one of: {', '.join(supported)}.")
    return dtype


def _failed(err: Exception, branches: Branches) -> QuantizeError:
    """The library's complaint, with the branch of the node it names."""
    text = " ".join(str(err).split()) or type(err).__name__
    node = next((name for name in sorted(branches.of_node, key=len, reverse=True) if name in text), None)
    where = f" at node '{node}' of branch '{branches.of_node[node]}'" if node else ""
    branch = branches.of_node[node] if node else next(iter(branches.names()), "head")
    fix = f"keep {'that' if node else 'one'} branch in float, such as precision: {{{branch}: fp32}}; please report the model."
    return QuantizeError(f"the graph could not be quantized{where}.", why=text[:500], fix=fix)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _tidy(model: onnx.ModelProto) -> None:
    """Drop what says how it was made, weights nobody reads any more, and types that quantizing made wrong; in place."""
    model.graph.name, model.graph.doc_string, model.producer_name, model.producer_version = "edgemm", "", "", ""
    del model.metadata_props[:], model.graph.value_info[:]
    drop_unread(model)
