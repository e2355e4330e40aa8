"""Q/DQ in the form that a target computes rightly and fast, whoever put it there."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from edgemm.contracts.step import Context
from edgemm.graph import back_to_float, joint, merging, openvino, symmetric_qdq, trained_qdq
from edgemm.graph.branches import Branches, find_branches
from edgemm.graph.float_tail import float_tail
from edgemm.workshop.quantizing import tensorrt


def always_float(model: onnx.ModelProto, branches: Branches) -> set[str]:
    """What no precision makes INT8: front-ends, joints of late fusion, merging of tokens, and what follows the last weighted layers."""
    return {*branches.frontend, *float_tail(model), *joint.joint_nodes(model), *merging.merging_nodes(model)}


def in_form(model: onnx.ModelProto, ctx: Context) -> onnx.ModelProto:
    """``model`` in the form its target takes; changed in place."""
    if ctx.numerics.placement == "fusing":
        tensorrt.finish(model, ctx)
    elif ctx.numerics.activations == "int8":
        symmetric_qdq.make_symmetric(model)
    elif ctx.numerics.activations == "mixed":
        openvino.normalise(model)
    return model


def without(model: onnx.ModelProto, floats: Collection[str], ctx: Context) -> onnx.ModelProto:
    """A copy of a graph with Q/DQ, ``floats`` in float again, activations signed or unsigned as the target wants them."""
    model = back_to_float.revert(model, model, set(floats))
    if ctx.numerics.activations == "uint8":
        trained_qdq.make_unsigned(model)
    return model


def as_trained(model: onnx.ModelProto, ctx: Context) -> onnx.ModelProto:
    """A copy of a graph whose Q/DQ was trained, in the target's form; nothing more of it is quantized."""
    return in_form(without(model, always_float(model, find_branches(model, ctx.card)), ctx), ctx)
