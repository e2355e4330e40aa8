"""INT8 as TensorRT wants it: which layers are quantized at all, and the form of what was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx

from edgemm.contracts.step import Context
from edgemm.graph import checks, placement, tensorrt
from edgemm.graph.branches import Branches
from edgemm.graph.qdq_pairs import PRODUCTS


def left_alone(model: onnx.ModelProto, branches: Branches, untouched: Collection[str], ctx: Context) -> list[str]:
    """``untouched`` and all nodes that gain nothing from INT8 in TensorRT, in graph order; every node where none is left.

    How many products stay in float, and why, goes to ``ctx.facts``.
    """
    unfit = placement.unfit(model)
    floats = {*untouched, *unfit}
    kinds = {node.name: node.op_type for node in model.graph.node}
    reasons = Counter(unfit[name] for name in unfit if kinds[name] in PRODUCTS and name not in untouched)
    ctx.facts["float_on_tensorrt"] = dict(reasons.most_common())
    if not any(kinds[name] in (*PRODUCTS, "Gather") for name in branches.of_node if name not in floats):
        return list(branches.of_node)
    return [name for name in branches.of_node if name in floats]


def finish(model: onnx.ModelProto, ctx: Context) -> None:
    """Make every quantizer symmetric and leave only those that fuse; in place.

    Raises:
        QuantizeError: A rule of TensorRT is broken still; names the node.
    """
    tensorrt.normalise(model)
    checks.require(model, ctx.card, fast=True)
