"""Which operators of torch's graph multiply by weights, where their output channels lie, and what depends on weights alone."""

from __future__ import annotations

import torch
from torch.fx import Node

aten = torch.ops.aten
LINEAR = (aten.linear.default,)
CONVOLUTIONS = tuple(getattr(getattr(aten, f"conv{n}d"), overload) for n in (1, 2, 3) for overload in ("default", "padding"))
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
PRODUCTS = (aten.matmul.default, aten.mm.default)
SUMS = (aten.add.Tensor, aten.add_.Tensor)
TABLES = (aten.embedding.default,)
MOVES = (
    aten.view.default, aten.reshape.default, aten.transpose.int, aten.permute.default, aten.squeeze.dim, aten.unsqueeze.default,
    aten.contiguous.default, aten.clone.default, aten.expand.default, aten.flatten.using_ints, aten.slice.Tensor, aten.select.int,
)  # fmt: skip
SHARES = (aten.softmax.int, aten._softmax.default)
GROUPS = 6  # position of ``groups`` among the arguments of a transposed convolution


def weight_of(node: Node) -> Node | None:
    """The weights of a layer that takes them as its second argument and a bias as its third; None of other nodes."""
    layers = (*LINEAR, *CONVOLUTIONS, *TRANSPOSED)
    if node.target not in layers or (node.target in TRANSPOSED and len(node.args) > GROUPS and node.args[GROUPS] != 1):
        return None
    weight = node.args[1]
    return weight if isinstance(weight, Node) else None


def channel_axis(node: Node) -> int:
    """The axis of a layer's weights along which its output channels lie."""
    if node.target in PRODUCTS:
        return 1
    return 1 if node.target in TRANSPOSED else 0


def is_constant(node: Node) -> bool:
    """Whether a node's value depends on weights only."""
    return node.op == "get_attr" or (
        node.op == "call_function" and bool(node.all_input_nodes) and all(map(is_constant, node.all_input_nodes))
    )


def is_share(node: Node) -> bool:
    """Whether a node's value is the result of a softmax, moved at most: a product of it by constants is a mean over bins, and no layer."""
    return node.target in SHARES or (node.target in MOVES and isinstance(node.args[0], Node) and is_share(node.args[0]))


def parameters_of(node: Node) -> list[str]:
    """Qualified names of the weights a constant node is made of."""
    if node.op == "get_attr":
        return [str(node.target)]
    return [name for source in node.all_input_nodes for name in parameters_of(source)]
