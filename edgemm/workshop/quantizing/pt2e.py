"""A fused model as a graph with fake quantizers that the training loop can train, and that graph with real Q/DQ afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from edgemm.contracts.libraries import quiet_calls, quiet_imports
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import module_graph
from edgemm.workshop.models.quantized import QuantizedModel
from edgemm.workshop.models.tracing import PREFIX
from edgemm.workshop.quantizing.pt2e_norms import Norm, close_norms, open_norms
from edgemm.workshop.quantizing.pt2e_quantizer import Int8

with quiet_imports():
    from torchao.quantization.pt2e import FakeQuantizeBase
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

MODES = ("train", "training")
"""What torch's operators call the argument that says whether they are trained (dropout, recurrent layers)."""


class Trainee(nn.Module):
    """torch's graph with fake quantizers: features in card order -> outputs in card order.

    ``train()`` and ``eval()`` do what they do on modules: dropout, batch norm and recurrent layers change, ranges are taken in training
    only. Parameters are those of the module that was captured.

    Attributes:
        layers: Branch -> how many of its layers are quantized.
        freeze_after: Epochs after which ranges and batch norms' statistics stand still, in training too. The loop says ``train()``
            once an epoch, which is how epochs are counted.
    """

    def __init__(self, graph: GraphModule, layers: Mapping[str, int]) -> None:
        super().__init__()
        self.graph = graph
        self.layers = dict(layers)
        self.freeze_after = 1 << 30
        self._epoch = 0
        self._switches = list(_switches(graph))
        self.train(False)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.graph(*features))

    def train(self, mode: bool = True) -> Trainee:
        self.training = mode
        self._epoch += mode
        still = self._epoch > self.freeze_after
        for module in self.graph.modules():
            module.training = mode
            if isinstance(module, Norm):
                module.frozen = still
        self.observe(mode and not still)
        for node, position in self._switches:
            node.args = (*node.args[:position], mode, *node.args[position + 1 :])
        self.graph.recompile()
        return self

    def observe(self, on: bool) -> None:
        """Whether ranges follow what passes through."""
        for quantizer in self.quantizers():
            quantizer.enable_observer(on)

    def round(self, on: bool) -> None:
        """Whether values are rounded; off = the float model."""
        for quantizer in self.quantizers():
            quantizer.enable_fake_quant(on)

    def quantizers(self) -> Iterator[Any]:
        return (module for module in self.graph.modules() if isinstance(module, FakeQuantizeBase))

    def _apply(self, fn: Any, recurse: bool = True) -> Trainee:
        """Tensors the graph makes while it runs are made where its weights are."""
        super()._apply(fn, recurse)
        device = next(self.parameters()).device
        for node in self.graph.graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": device}
        self.graph.recompile()
        return self


def prepare(model: FusedModel, branch_of: Mapping[str, str], floats: frozenset[str], *, is_narrow: bool = False) -> FusedModel:
    """A trainable copy of ``model`` whose module is a ``Trainee``.

    Raises:
        ExportError: torch.export refuses the model; names module and line of its code.
    """
    graph = module_graph(copy.deepcopy(model).eval()).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    _tidy(graph)
    open_norms(graph)
    quantizer = Int8(branch_of, floats, is_narrow=is_narrow)
    with quiet_calls():
        graph = prepare_qat_pt2e(graph, quantizer)
    outputs = {name: replace(output, auxiliary={}) for name, output in model.card.outputs.items()}  # the graph is that of eval mode
    return FusedModel(model.card.replace(outputs=outputs), Trainee(graph, quantizer.layers))


def trainee_of(model: FusedModel) -> Trainee:
    """The graph inside a model that ``prepare`` made."""
    assert isinstance(model.module, Trainee)
    return model.module


def convert(trained: FusedModel, model: FusedModel, floats: frozenset[str]) -> QuantizedModel:
    """What ``trained`` (made from ``model`` by ``prepare``) is on the box: Q/DQ, batch norms folded, rounded weights."""
    trainee = trainee_of(trained.eval())
    kept = carry_back(trainee, model)
    graph = copy.deepcopy(trainee.graph)
    close_norms(graph)
    with quiet_calls(), torch.no_grad():
        graph = convert_pt2e(graph)
    return QuantizedModel(graph, kept, sorted(floats)).eval()


def carry_back(trainee: Trainee, model: FusedModel) -> FusedModel:
    """A copy of ``model`` with the trained weights and statistics, by name."""
    kept = copy.deepcopy(model).to("cpu").eval()
    values = {name.removeprefix(f"graph.{PREFIX}"): value for name, value in trainee.state_dict().items()}
    own = kept.module.state_dict(keep_vars=True)
    trained = {name: values[name] for name in own if name in values}
    by_tensor = {id(own[name]): value for name, value in trained.items()}  # a tensor with two names has one in the graph
    trained |= {name: by_tensor[id(tensor)] for name, tensor in own.items() if id(tensor) in by_tensor}
    kept.module.load_state_dict({name: trained.get(name, tensor).detach().cpu() for name, tensor in own.items()})
    return kept


def _tidy(graph: GraphModule) -> None:
    """Drop the front-end's constants, which are captured with the model and read by nobody, and torch's packing of flat arguments."""
    graph.graph.set_codegen(CodeGen())
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _switches(graph: GraphModule) -> Iterator[tuple[Node, int]]:
    """Nodes that a mode changes, and where among their arguments it stands. One that is on in eval mode stays on."""
    for node in graph.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        for position, argument in enumerate(schema.arguments if schema else ()):
            if argument.name in MODES and position < len(node.args) and node.args[position] is False:
                yield node, position
