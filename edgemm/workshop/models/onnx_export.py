"""From a torch model to ONNX: dynamic batch, front-ends in front, the same bytes for the same model."""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from edgemm.contracts import task as tasks
from edgemm.contracts.libraries import quiet_calls
from edgemm.contracts.specs import BATCH
from edgemm.errors import ExportError
from edgemm.graph import computed_weights, files
from edgemm.graph.branches import drop_unread
from edgemm.graph.exporter_leftovers import SCOPES, tidy
from edgemm.graph.frontend import prepend
from edgemm.graph.single_precision import to_single
from edgemm.graph.trained_qdq import mark_floats, own_zero_points, pairs_before_maxima
from edgemm.workshop.models.fused import FusedModel, feature_names
from edgemm.workshop.models.quantized import QuantizedModel
from edgemm.workshop.models.tracing import PREFIX, capture, require_writable, untranslatable
from edgemm.workshop.models.tried import sample_inputs

RECURRENT = {torch.ops.aten.gru.input: 1, torch.ops.aten.lstm.input: 2}  # operator -> number of states it returns
OF_QUANTIZED = f"{PREFIX}graph.{PREFIX}"  # before the names of weights that a quantized model left in float
OLDEST_OPSET = 18  # the exporter writes 18 and converts upwards only


def export_onnx(model: FusedModel, out: Path, *, opset: int = 18) -> Path:
    """Write ``model`` as ONNX to ``out``: inputs as the box has them, outputs named as the card names its tensors, dynamic batch.

    A ``QuantizedModel`` is written with its QuantizeLinear and DequantizeLinear, every other model in float.

    Args:
        out: The ONNX file; above 2 GB its weights go to ``<out>.data``.
        opset: ONNX opset, at least 18.

    Raises:
        ExportError: The exporter cannot follow the model; names module and line of the user's code where known.
        CardError: The module does not take or return what the card says.
    """
    proto = prepend(trace(model, opset=opset).model, model.card, in_place=True)
    if isinstance(model, QuantizedModel):
        own_zero_points(proto)
        pairs_before_maxima(proto)
        mark_floats(proto, model.floats)
    return files.save(proto, out)


@dataclass(frozen=True)
class Traced:
    """The model without front-ends, in both languages.

    Attributes:
        model: Inputs are what ``forward`` receives (``fused.feature_names``).
        program: torch's graph; names of its nodes are names of ``model``'s tensors where those survived.
    """

    model: onnx.ModelProto
    program: torch.export.ExportedProgram


def trace(model: FusedModel, *, opset: int = 18) -> Traced:
    """Export the module alone.

    Raises:
        ExportError, CardError: As ``export_onnx``.
    """
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"opset {opset} is too old.", why=f"the exporter writes opset {OLDEST_OPSET} and later.", fix="leave --opset out."
        )
    names = feature_names(model.card)
    with quiet_calls(), torch.no_grad(), recurrent_by_shape():
        captured = module_graph(model)
        require_writable(captured)
        try:
            program = torch.onnx.export(captured, dynamo=True, opset_version=opset, verbose=False)
        except Exception as err:  # the exporter's own errors derive from several bases
            raise untranslatable(err, captured) from err
    assert program is not None
    assert program.exported_program is not None
    computed_weights.settle(program.model)
    _strip(program.model)
    _name_tensors(program.model, names, list(tasks.tensors(model.card)))
    _name_sizes(program.model)
    tidy(program.model, {name: name if name in model.card.inputs else name.removesuffix("_mask") for name in names})
    proto = ir.serde.serialize_model(program.model)
    drop_unread(proto)
    to_single(proto)  # what forward itself casts to half precision
    return Traced(proto, program.exported_program)


def module_graph(model: FusedModel) -> torch.export.ExportedProgram:
    """torch's graph of the module alone: dynamic batch, eval mode, recurrent layers whole; its names start with ``_capture.PREFIX``.

    Raises:
        ExportError, CardError: As ``export_onnx``.
    """
    # contiguous: of a picture in channels-last order torch writes pooling and flattening as Range and Gather instead of Reshape
    features = tuple(feature.contiguous() for feature in model.features(sample_inputs(model.card)))
    shapes: tuple[dict[int, Any], ...] = ({0: torch.export.Dim(BATCH)},) * len(features)
    with quiet_calls(), torch.no_grad(), recurrent_by_shape():
        return capture(_Positional(model).eval(), features, shapes, model)


class _Positional(nn.Module):
    """What is exported: features in, a tuple of outputs in card order out."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.fused = model

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.fused.call_module(features).values())


@contextlib.contextmanager
def recurrent_by_shape() -> Iterator[None]:
    """While tracing, let GRU and LSTM tell only their shapes.

    torch's own rule runs them step by step to learn the shape: seconds for a short clip, and it fixes the length of the sequence.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    table = torch._decomp.global_decomposition_table["post_autograd"]
    saved = [(operator, operator.py_kernels[key], table[operator]) for operator in RECURRENT]
    try:
        for operator, states in RECURRENT.items():
            operator.py_kernels[key] = table[operator] = functools.partial(_recurrent_shape, states)
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, kernel, rule in saved:
            operator.py_kernels[key], table[operator] = kernel, rule
            operator._dispatch_cache.clear()


def _recurrent_shape(
    states: int, input: torch.Tensor, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Empty tensors of the shapes that aten::gru (one state) or aten::lstm (two) return. An LSTM's output may be projected: its h tells."""
    state = [hx] if states == 1 else list(hx)
    width = state[0].shape[-1] * (2 if bidirectional else 1)
    return input.new_empty((*input.shape[:-1], width)), *(torch.empty_like(h) for h in state)


def _name_sizes(model: ir.Model) -> None:
    """Give torch's symbols (s77) the name of the axis they stand for."""
    batches = {str(value.shape[0]) for value in model.graph.inputs if value.shape is not None}
    values = [*model.graph.inputs, *model.graph.outputs, *(output for node in model.graph for output in node.outputs)]
    for value in dict.fromkeys(values):
        if any(not isinstance(size, int) and str(size) in batches for size in value.shape or ()):  # a new one: some are frozen
            value.shape = ir.Shape([size if isinstance(size, int) or str(size) not in batches else BATCH for size in value.shape or ()])


def _name_tensors(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the ends the card's names, and every tensor between a name that no other has.

    A buffer may be called as torch calls an operator's result (``mean``), and so may an input or output of the card.
    """
    graph, ends = model.graph, {*inputs, *outputs}
    for position, value in enumerate(graph.outputs):
        if value.is_graph_input() or value.is_initializer() or value in graph.outputs[:position]:
            node = ir.node("Identity", [value], name=f"output_{position}_Identity")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
    weights = list(graph.initializers.values())
    between = [value for node in graph.all_nodes() for value in node.outputs if value not in graph.outputs]
    inner = [value for node in graph.all_nodes() for body in _bodies(node) for value in body.inputs]
    graph.initializers.clear()
    taken = set(ends)
    for value in [*weights, *between, *inner]:
        name, count = value.name or "tensor", 1
        while value.name in taken or not value.name:
            value.name, count = f"{name}.{count}", count + 1  # no name of torch's has a dot and a number at its end
        taken.add(value.name)
    for value, name in zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True):
        value.name = name
    for value in weights:
        graph.register_initializer(value)


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    return (entry.as_graph() for entry in node.attributes.values() if entry.type == ir.AttributeType.GRAPH)


def _strip(model: ir.Model) -> None:
    """Drop what differs between machines (paths in stack traces), and our wrapper's part of every name, in place."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name, model.graph.doc_string = "edgemm", None
    model.graph.metadata_props.clear()
    for index, node in enumerate(model.graph.all_nodes()):
        node.doc_string = None
        node.name = node.name or f"node_{index}"
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        node.metadata_props.clear()
        kept = [scope.removeprefix(PREFIX) for scope in scopes if scope.startswith(PREFIX)]
        if kept:
            node.metadata_props[SCOPES] = repr(kept)
        for output in node.outputs:
            output.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
        if value.name and value.name.startswith(PREFIX):
            value.name = value.name.removeprefix(OF_QUANTIZED).removeprefix(PREFIX)
