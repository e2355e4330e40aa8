"""Where a graph merges tokens: what decides which become one, and the products that average them and put them back.

These stay float: with 8 bits other tokens would be alike, and shares of a sum would not add up to one.
"""

from __future__ import annotations

import onnx

CARRIES = ("Cast", "Transpose", "Mul", "Div", "Identity", "Unsqueeze", "ReduceSum", "Log")
"""Operators whose result is a matrix of who goes where, or how many each stands for, if what they read is one."""
DECIDES = ("Equal",)


def merging_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of these nodes; none where no token is merged."""
    nodes = list(model.graph.node)
    users: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            users.setdefault(name, []).append(index)
    starts = {index for index, node in enumerate(nodes) if node.op_type in DECIDES and _is_matching(index, nodes)}
    if not starts:
        return set()
    return {nodes[index].name for index in _deciding(starts, nodes, users) | _averaging(starts, nodes)}


def _is_matching(index: int, nodes: list[onnx.NodeProto]) -> bool:
    """Whether a comparison compares places that follow from the largest of several likenesses."""
    maker = {name: node for node in nodes for name in node.output}
    pending, seen = list(nodes[index].input), set[str]()
    while pending:
        name = pending.pop()
        node = maker.get(name)
        if node is None or name in seen:
            continue
        if node.op_type == "ArgMax":
            return True
        seen.add(name)
        if node.op_type in ("MatMul", "Gemm", "Conv", "LayerNormalization"):
            continue
        pending += list(node.input)
    return False


def _deciding(starts: set[int], nodes: list[onnx.NodeProto], users: dict[str, list[int]]) -> set[int]:
    """Nodes whose results only the decisions read."""
    inside = set(starts)
    for index in range(len(nodes) - 1, -1, -1):
        readers = {user for name in nodes[index].output for user in users.get(name, ())}
        if readers and readers <= inside:
            inside.add(index)
    return inside


def _averaging(starts: set[int], nodes: list[onnx.NodeProto]) -> set[int]:
    """What is made of the matrices, and the products with them."""
    carried = {name for index in starts for name in nodes[index].output}
    inside = set[int]()
    for index, node in enumerate(nodes):
        read = [name in carried for name in node.input if name]
        if not any(read):
            continue
        if node.op_type in CARRIES:
            inside.add(index)
            carried.update(node.output)
        elif node.op_type == "MatMul":
            inside.add(index)
            carried.update(node.output if all(read) else ())
    return inside
