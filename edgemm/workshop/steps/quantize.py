"""Post-training quantization as the target wants it: INT8 by Q/DQ in the ONNX graph, calibrated on real samples, or weights alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx

from edgemm.contracts.specs import Branch, Retrainer
from edgemm.contracts.step import Context
from edgemm.errors import EdgemmError, QuantizeError
from edgemm.graph import files, masks, smoothing, trained_qdq
from edgemm.graph.branches import Branches, drop_unread, find_branches
from edgemm.graph.checks import FOREIGN
from edgemm.graph.costs import branch_costs
from edgemm.workshop.quantizing import balancing, calibration, choosing, nncf, numerics, onnxruntime, tensorrt, weights

STAGE = "graph"
QUANTIZES = True
PACKAGES = ("nncf", "onnx", "onnxruntime")
PRECISIONS = ("int8", "w8", "w4", "fp32", "bf16", "fp16")
WEIGHTS = "w"
"""Begins the word of a branch whose weights alone are in so many bits: w4, w8."""
AUTO, CLIPPED, DEFAULT, INT8, MINMAX = "auto", "clipped", "default", "int8", "minmax"
OTHERS = {
    "the mean of each sample's": ("mean", False),
    "the histogram with the least error": ("histogram", False),
    "smallest and largest value, with biases corrected": (MINMAX, True),
}
"""Rules to try, in words -> ranges, and whether biases are corrected."""
NARROW = "INT8 weights take 7 of 8 bits: this processor has no VNNI or AMX, and would cut sums of products at 16 bits in silence."
BALANCED = "smallest and largest value, channels behind layer norms balanced against weights (SmoothQuant)"
MOST_MACS = 5e8  # of a sample, for all rules to be tried: some seconds each
DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM")


def quantize(
    model: onnx.ModelProto,
    ctx: Context,
    *,
    method: Literal["ptq", "weights"] = "ptq",
    bits: int = 4,
    group: int = 64,
    calibration_samples: int = 300,
    ranges: Literal["auto", "minmax", "clipped", "mean", "histogram"] = "auto",
    precision: dict[Branch, str] | Literal["auto"] | None = None,
    on_miss: Literal["revert", "report"] | Retrainer = "revert",
) -> onnx.ModelProto:
    """A copy of ``model`` with Q/DQ, or with its weights alone in few bits.

    Front-ends, recurrent layers, the joints of late fusion, what follows the last layers with weights (``graph.float_tail``) and branches
    not marked int8 stay in float. (Recurrent weights could be stored in one byte, but OpenVINO refuses that in some graphs: its GRU and
    LSTM want constants.) Of a graph that quantization-aware training (``qat``) made, only branches that it neither quantized nor left in
    float on purpose are calibrated; a branch asked for in float here loses its Q/DQ.

    Args:
        method: ``ptq``: weights and activations in INT8. ``weights``: those of products and embedding tables alone, in ``bits``, for where
            memory hurts; convolutions, recurrent layers and activations stay float.
        bits: Of ``weights``: 4 or 8.
        group: So many weights, a power of two from 16 on, share a scale where weights alone are quantized.
        calibration_samples: How many samples the ranges are taken from, at least 2; weights in 4 bits are weighed on 32 at most.
        ranges: How an activation's range follows from them: ``minmax`` over all, the ``mean`` of each sample's (clips the rare ones: on
            spoken digits it lost 1.3 points where minmax lost 0.4, both with biases corrected), or the ``histogram`` with the least error
            (slow on large models); ONNX Runtime's numerics take minmax for both. ``clipped``: minmax, measurements far from all others of
            their channel left out. ``auto``: minmax, and where there are such measurements clipped, if val is then answered better;
            where answers to at least 30 labelled rows are then still far from the float model's, ``mean``, ``histogram`` and NNCF's
            correction of biases are tried, each kept if it answers val better (not on models of more than half a billion
            multiply-accumulates, nor in ONNX Runtime's numerics); of transformers also SmoothQuant, channels balanced between layer norms
            and the weights behind them, in each branch and in all (in all alone on larger models, where 60 rows decide).
        precision: Branch selector -> int8, w8 or w4 (weights alone), fp32, bf16, fp16 or auto; ``default`` stands for branches not named,
            which are what ``method`` says without it.
            ``auto`` alone is ``{default: auto}``. ``compress`` decides auto by timing each branch on the target; by itself this step
            takes it for what ``method`` says.
        on_miss: What ``compress`` does where an accuracy budget is missed: ``revert`` the most harmful branches and layers to float,
            revert and then train by a step with quantization (``qat``), or only ``report`` it. Nothing here.

    Raises:
        QuantizeError: Too few samples, an unknown precision, one the target lacks, or a graph that cannot be quantized.
    """
    _refuse_integers(model)
    meant = _meant(method, bits)
    asked = {DEFAULT: meant} | _by_selector(precision)
    words = {selector: _known(selector, word, ctx, meant) for selector, word in asked.items()}
    bits_of = _few_bits(model, ctx, words)
    if INT8 not in words.values() and bits_of and not trained_qdq.has_pairs(model):  # what is packed is never copied
        return files.filled(weights.pack(files.skeleton(model), model, bits_of, group, ctx, calibration_samples), model)
    quantized = _calibrated_or_copied(model, ctx, calibration_samples, ranges, {key: _beside(word) for key, word in words.items()})
    return weights.pack(quantized, model, bits_of, group, ctx, calibration_samples) if bits_of else quantized


def _calibrated_or_copied(
    model: onnx.ModelProto, ctx: Context, calibration_samples: int, ranges: str, precision: dict[str, str]
) -> onnx.ModelProto:
    """A copy with Q/DQ in the branches that ``precision`` calls int8."""
    branches = find_branches(model, ctx.card)
    untouched = left_alone(branches, ctx, precision)
    untouched += sorted(numerics.always_float(model, branches) - {*untouched})
    if trained_qdq.has_pairs(model):
        model, untouched = _after_training(model, branches, ctx, precision, untouched)
        branches = find_branches(model, ctx.card)
    if ctx.numerics.placement == "fusing":
        untouched = tensorrt.left_alone(model, branches, untouched, ctx)
    untouched += sorted(masks.masking_nodes(model) - {*untouched})
    if len(untouched) == len(branches.of_node):
        return numerics.in_form(_copy(model), ctx)
    samples = calibration.samples(model, ctx, calibration_samples)
    if ctx.numerics.narrow_weights:
        ctx.note(NARROW)

    def calibrated(
        rows: list[dict[str, np.ndarray]], rule: str = MINMAX, *, correct_biases: bool = False, of: onnx.ModelProto = model
    ) -> onnx.ModelProto:
        return numerics.in_form(_calibrated(of, rows, branches, untouched, ctx, rule, correct_biases), ctx)

    if ranges not in (AUTO, CLIPPED):
        return calibrated(samples, ranges)
    calm, channels = calibration.without_outliers(model, ctx, samples)
    quantized = calibrated(calm if ranges == CLIPPED else samples)
    if ranges == AUTO and channels and choosing.better(model, quantized, clipped := calibrated(calm), channels, ctx):
        quantized, samples = clipped, calm
    if ranges == CLIPPED:
        return quantized
    is_small, others = _macs(model, branches) <= MOST_MACS, dict[str, Callable[[], onnx.ModelProto]]()
    if is_small and ctx.numerics.activations != "uint8":
        others = {words: partial(calibrated, samples, rule, correct_biases=correct) for words, (rule, correct) in OTHERS.items()}

    def smoothed(floats: list[str]) -> onnx.ModelProto:
        return calibrated(samples, of=balancing.balanced(model, samples, floats))

    others |= {words: partial(smoothed, floats) for words, floats in _balancings(model, branches, untouched, is_small)}
    return choosing.best(model, quantized, others, ctx, rows=choosing.ROWS if is_small else choosing.FEW_ROWS)


def _balancings(model: onnx.ModelProto, branches: Branches, untouched: list[str], is_small: bool) -> Iterator[tuple[str, list[str]]]:
    """Ways to balance channels, in words, and the nodes that each leaves as they are: every transformer alone, then all of them."""
    if trained_qdq.has_pairs(model) or not nncf.has_attention(model):
        return
    read = {*smoothing.norms(model, untouched)}
    owners = list(dict.fromkeys(branches.of_node[node.name] for node in model.graph.node if read & {*node.output}))
    for owner in owners if len(owners) > 1 and is_small else []:
        yield f"{BALANCED} in branch '{owner}'", [*untouched, *(name for name, other in branches.of_node.items() if other != owner)]
    if owners:
        yield BALANCED, untouched


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises QuantizeError."""
    calibration.check(given["calibration_samples"])
    if given["method"] == "weights":
        weights.check(ctx, given["bits"], given["group"])
    for selector, word in _by_selector(given["precision"]).items():
        _known(selector, word, ctx, _meant(given["method"], given["bits"]))


def _calibrated(
    model: onnx.ModelProto,
    samples: list[dict[str, np.ndarray]],
    branches: Branches,
    untouched: list[str],
    ctx: Context,
    ranges: str,
    correct_biases: bool,
) -> onnx.ModelProto:
    """Q/DQ by the library whose numerics the target wants."""
    try:
        if ctx.numerics.activations == "uint8":
            quantized = onnxruntime.quantize(model, samples, untouched, ctx)
        else:
            quantized = nncf.quantize(model, samples, untouched, ctx, ranges, correct_biases=correct_biases)
    except EdgemmError:
        raise
    except Exception as err:  # neither library has a base class for its errors
        raise _failed(err, branches) from err
    _tidy(quantized)
    return quantized


def _macs(model: onnx.ModelProto, branches: Branches) -> int:
    return sum(cost.macs for cost in branch_costs(model, branches).values())


def _refuse_integers(model: onnx.ModelProto) -> None:
    """A graph that computes in integers already keeps no float weights to quantize."""
    node = next((node for node in model.graph.node if node.op_type in FOREIGN), None)
    if node is not None:
        is_dynamic = node.op_type in DYNAMIC
        raise QuantizeError(
            f"the graph is quantized already: '{node.name}' is a {node.op_type}.",
            why="its weights were quantized dynamically: ranges are taken anew at every call, and the float weights are gone."
            if is_dynamic
            else "it computes in integers itself, and the float weights are gone.",
            fix="give the float model from which it was made (before quantize_dynamic); or run this file as it is: edgemm compile.",
        )


def _after_training(
    model: onnx.ModelProto, branches: Branches, ctx: Context, precisions: dict[str, str], floats: list[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of a graph with Q/DQ, in the target's numerics, ``floats`` in float again; and the nodes in which nothing is left to do."""
    model = numerics.without(model, floats, ctx)
    left = find_branches(model, ctx.card)
    done = {*floats, *trained_qdq.finished(model, left, ctx.card, precisions)}
    return model, [name for name in left.of_node if name in done]


def left_alone(branches: Branches, ctx: Context, precision: dict[str, str]) -> list[str]:
    """Names of the nodes that stay float, in graph order: front-ends, and branches whose precision is not int8.

    Raises:
        QuantizeError: An unknown precision, or one the target lacks.
    """
    words = _by_branch(branches, ctx, precision)
    return [name for name, branch in branches.of_node.items() if name in branches.frontend or words.get(branch, INT8) != INT8]


def _by_branch(branches: Branches, ctx: Context, precision: dict[str, str]) -> dict[str, str]:
    """Branch -> its precision, of those that ``precision`` names.

    A later selector overrides an earlier one, so that ``{head: fp32, "head:event": int8}`` says what it seems to say.
    """
    words: dict[str, str] = {}
    for selector, word in sorted(precision.items(), key=lambda entry: entry[0] != DEFAULT):
        dtype = _known(selector, word, ctx)
        named = branches.names() if selector == DEFAULT else branches.select(selector, ctx.card)
        words.update(dict.fromkeys(named, dtype))
    return words


def _few_bits(model: onnx.ModelProto, ctx: Context, precision: dict[str, str]) -> dict[str, int]:
    """Node -> bits of its weights, of nodes in branches whose weights alone are quantized; what stays float in INT8 too does so here."""
    if not any(word.startswith(WEIGHTS) for word in precision.values()):
        return {}
    branches = find_branches(model, ctx.card)
    words, left = _by_branch(branches, ctx, precision), numerics.always_float(model, branches)
    owners = {name: words.get(branch, "") for name, branch in branches.of_node.items() if name not in left}
    return {name: int(word.removeprefix(WEIGHTS)) for name, word in owners.items() if word.startswith(WEIGHTS)}


def _beside(word: str) -> str:
    """What a precision is to the calibrated part of this step: weights alone are none of its business."""
    return "fp32" if word.startswith(WEIGHTS) else word


def _by_selector(precision: dict[str, str] | str | None) -> dict[str, str]:
    return {DEFAULT: precision} if isinstance(precision, str) else precision or {}


def _meant(method: str, bits: int) -> str:
    """The precision of branches of which nothing is said."""
    return INT8 if method == "ptq" else f"{WEIGHTS}{bits}"


def _known(selector: str, word: str, ctx: Context, meant: str = INT8) -> str:
    """The precision that is wanted; ``auto`` is ``meant`` until somebody measured."""
    supported = (INT8, *(f"{WEIGHTS}{bits}" for bits in ctx.numerics.weight_bits), *ctx.numerics.floats)
    dtype = meant if word == AUTO else word
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
