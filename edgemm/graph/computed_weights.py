"""Weights that a graph computes at every call from nothing but constants, such as standardised ones, computed once instead."""

from __future__ import annotations

import onnx_ir as ir
import onnxscript.optimizer

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVING = frozenset(("Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Expand", "Constant"))
"""Operators that only lay numbers out anew: weights of such are known to be weights."""
ROUNDING = frozenset(("QuantizeLinear", "DequantizeLinear"))


def settle(model: ir.Model) -> None:
    """Make constants of computed weights, in place: only of a constant does INT8 make a weight."""
    chosen: set[ir.Node] = set()
    for node in model.graph:
        if node.op_type in WEIGHTED and len(node.inputs) > 1:
            sources = _sources(node.inputs[1])
            kinds = {source.op_type for source in sources or ()}
            if sources and kinds - MOVING and not kinds & ROUNDING:
                chosen |= sources
    if not chosen:
        return
    largest = max((value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None), default=0)
    onnxscript.optimizer.fold_constants_ir(
        model, input_size_limit=2 * largest, output_size_limit=2 * largest, should_fold=lambda node: node in chosen
    )


def _sources(value: ir.Value | None) -> set[ir.Node] | None:
    """The nodes that compute a value; None where an input of the graph is among what it comes from."""
    nodes: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        source = waiting.pop()
        if source is None or source.is_initializer():
            continue
        maker = source.producer()
        if maker is None or source.is_graph_input() or "Random" in maker.op_type:
            return None
        if maker not in nodes:
            nodes.add(maker)
            waiting += maker.inputs
    return nodes
