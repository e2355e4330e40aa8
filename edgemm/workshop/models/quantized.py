"""A model after quantization-aware training: the graph with its Q/DQ, and the float weights it came from."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.fx import GraphModule

from edgemm.workshop.models.fused import FusedModel


class QuantizedModel(FusedModel):
    """A fused model that answers as INT8 does, and that ``exporting.export_onnx`` writes with QuantizeLinear and DequantizeLinear.

    It has no weights of its own to save: save ``float_model`` (any checkpoint) and the exported graph beside it.

    Args:
        graph: Features in card order -> outputs in card order; torch's quantized_decomposed operators where integers begin and end.
        float_model: The trained weights in the original modules. Quantizing it again by its own ranges gives nearly the same model.
        floats: Branches that were left in float on purpose; the graph step ``quantize`` leaves them so.
    """

    def __init__(self, graph: GraphModule, float_model: FusedModel, floats: Iterable[str] = ()) -> None:
        super().__init__(float_model.card, QuantizedGraph(graph))
        self.floats = tuple(floats)
        self._float_model = [float_model]  # in a list: no submodule, so that parameters and modes are those of the graph alone

    @property
    def float_model(self) -> FusedModel:
        """The trained weights in the original module structure, in eval mode."""
        return self._float_model[0]


class QuantizedGraph(nn.Module):
    """torch's graph as a module; it has one mode, eval."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.training = False
        self.requires_grad_(False)

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.graph(*features))

    def train(self, mode: bool = True) -> QuantizedGraph:
        """Changes nothing: converted graphs are not trained."""
        return self
