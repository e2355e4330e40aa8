"""Batch norm during quantization-aware training: its factor goes into the weights before they are rounded, as it will on the box.

torchao's own rewriting of convolution and batch norm knows one eps (1e-5) and one momentum (0.1) and searches by tracing some hundred
patterns (50 s a model); this one takes both from the graph and finds the pairs by looking. What is computed is the same:
Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2, in the
form with one forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgemm.workshop.quantizing.pt2e_layers import channel_axis, is_constant, weight_of

aten = torch.ops.aten
SMALLEST_GAIN = 1e-6  # a channel that pruning or training silenced has gain 0, and the convolution's result is divided by it
PREFIX = "edgemm_norm_"


class Norm(nn.Module):
    """A batch norm of the graph that can be trained.

    Attributes:
        frozen: Use the statistics collected so far, in training too.
    """

    def __init__(self, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum, self.eps, self.frozen = momentum, eps, False

    def forward(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor,
        gain: Tensor | None = None, inner_bias: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """(N, C, ...) -> the same shape.

        Args:
            gain: (C,), factor that is already in ``x``; None = nothing is folded.
            inner_bias: (C,), what the layer before would have added to its unscaled result.
        """
        fixed = self.frozen or not self.training
        if gain is None:
            return F.batch_norm(x, mean, var, weight, bias, not fixed, self.momentum, self.eps)
        shape = [1, -1, *[1] * (x.dim() - 2)]
        if fixed:
            return x + folded_bias(gain, inner_bias, bias, mean).reshape(shape)
        x = x / gain.reshape(shape)
        x = x if inner_bias is None else x + inner_bias.reshape(shape)
        return F.batch_norm(x, mean, var, weight, bias, True, self.momentum, self.eps)


def gain_of(weight: Tensor | None, var: Tensor, eps: float) -> Tensor:
    """(C,): what batch norm multiplies by, kept away from 0."""
    gain = torch.rsqrt(var + eps)
    gain = gain if weight is None else gain * weight
    return torch.where(gain.abs() < SMALLEST_GAIN, torch.full_like(gain, SMALLEST_GAIN), gain)


def folded_bias(gain: Tensor, inner_bias: Tensor | None, bias: Tensor | None, mean: Tensor) -> Tensor:
    """(C,): what is left to add after the scaled layer."""
    centre = -mean if inner_bias is None else inner_bias - mean
    return centre * gain if bias is None else centre * gain + bias


def scaled(weight: Tensor, gain: Tensor, axis: int) -> Tensor:
    """``weight`` with every output channel times its gain."""
    return weight * gain.reshape([-1 if dim == axis else 1 for dim in range(weight.dim())])


def open_norms(graph: GraphModule) -> None:
    """Make every batch norm of the graph a ``Norm``, its gain in the weights of the layer before it where there is one; in place."""
    norms = [node for node in graph.graph.nodes if node.target is aten.batch_norm.default and node.args[3] is not None]
    for number, node in enumerate(norms):
        x, weight, bias, mean, var, _, momentum, eps = node.args[:8]
        name = f"{PREFIX}{number}"
        graph.add_submodule(name, Norm(momentum, eps))
        with graph.graph.inserting_before(node):
            rest = _fold(graph, x, weight, var, eps) if _foldable(x, node) else ()
            new = graph.graph.call_module(name, (x, weight, bias, mean, var, *rest))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()


def _foldable(layer: Any, norm: Node) -> bool:
    weight = weight_of(layer) if isinstance(layer, Node) else None
    if weight is None or list(layer.users) != [norm] or not is_constant(weight):
        return False
    return layer.target is not aten.linear.default or norm.meta["val"].dim() == 2  # on (N, T, C) a batch norm's channels are axis 1


def _fold(graph: GraphModule, layer: Node, weight: Node | None, var: Node, eps: float) -> tuple[Node, Any]:
    """Scale the layer's weights, take its bias out; returns gain and bias."""
    inner = layer.args[2] if len(layer.args) > 2 else None
    kernel = layer.args[1]
    with graph.graph.inserting_before(layer):
        gain = graph.graph.call_function(gain_of, (weight, var, eps))
        kernel = graph.graph.call_function(scaled, (kernel, gain, channel_axis(layer)))
    arguments = list(layer.args)
    arguments[1:3] = [kernel, None]
    layer.args = tuple(arguments)
    return gain, inner


def close_norms(graph: GraphModule) -> None:
    """Put the trained values of folded batch norms in, as constants; in place.

    The others stay what they are, in eval mode: at the sight of one of torch's, torchao traces its patterns for 50 s.
    """
    values = _Values(graph)
    for node in [node for node in graph.graph.nodes if node.op == "call_module" and node.target.startswith(PREFIX)]:
        layer, _, bias, mean, _, *rest = node.args
        graph.get_submodule(node.target).train(False)
        if rest:
            added = folded_bias(*(values.of(entry) for entry in (rest[0], rest[1], bias, mean)))
            node.replace_all_uses_with(_with_bias(graph, layer, added, node.target))
            graph.graph.erase_node(node)
            graph.delete_submodule(node.target)
    for node in [node for node in graph.graph.nodes if node.target is scaled]:
        with graph.graph.inserting_before(node):
            constant = add_constant(graph, f"scaled_weight_{node.name}", values.of(node))
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _with_bias(graph: GraphModule, layer: Node, bias: Tensor, name: str) -> Node:
    """The scaled layer with its bias as a constant."""
    with graph.graph.inserting_before(layer):
        constant = add_constant(graph, f"{name}_bias", bias)
    arguments = list(layer.args)
    arguments[2:3] = [constant]
    layer.args = tuple(arguments)
    return layer


def add_constant(graph: GraphModule, name: str, value: Tensor) -> Node:
    """A tensor held by the graph, at the current place of insertion."""
    graph.register_buffer(name, value.detach().clone())
    node = graph.graph.get_attr(name)
    node.meta["val"] = value.detach()
    return node


class _Values:
    """Values of the nodes that depend on weights alone."""

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph

    @torch.no_grad()
    def of(self, node: Any) -> Any:
        if not isinstance(node, Node):
            return node
        if node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            return getattr(self.graph.get_submodule(path), name)
        return node.target(*(self.of(entry) for entry in node.args))  # type: ignore[operator]  # ours: gain_of and scaled
