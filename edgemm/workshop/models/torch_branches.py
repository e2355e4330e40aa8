"""Branches, fusion and heads of a torch model: the rule of ``graph/branches.py``, applied to torch.export's graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.fx import Node

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.libraries import quiet_calls
from edgemm.graph.branches import Branches, find_branches
from edgemm.workshop.models.fused import FusedModel, feature_names
from edgemm.workshop.models.onnx_export import recurrent_by_shape
from edgemm.workshop.models.tracing import PREFIX, capture
from edgemm.workshop.models.tried import evaluating, sample_inputs

WEIGHTED = frozenset((
    "linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "matmul", "mm",
    "bmm", "addmm", "baddbmm", "einsum", "bilinear", "gru", "lstm", "rnn_tanh", "rnn_relu", "gru_cell", "lstm_cell", "rnn_tanh_cell",
    "rnn_relu_cell",
))  # fmt: skip
"""Operators that multiply by weights: what ``graph.branches.WEIGHTED`` is to ONNX."""
SIZES = frozenset((
    "sym_size", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_full",
    "new_empty",
))  # fmt: skip
"""Operators that take only the size of what they read."""
CHECKS = ("_assert", "_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range_for_size")


@dataclass(frozen=True)
class TorchBranches:
    """Which node, parameter and submodule belongs to which part of a torch model.

    Attributes:
        program: ``model.module`` on what its front-ends give: eval mode, static shapes, a batch of 2 unless asked otherwise. Names of
            parameters and modules in it start with ``fused.module.``; the tables here leave that out.
        of_node: fx node -> ``<input>``, ``fusion`` or ``head:<output>``, in topological order; call nodes only.
        of_parameter: Name in ``model.module`` (both names of a shared tensor) -> branch of its first use. What the graph does not read
            (a batch norm's step counter) is not in it.
        cuts: Input -> fx nodes in which its branch ends, read by fusion or head.
        outputs: Tensor that the model answers with -> fx node.
        endings: fx node -> outermost submodule that is called once and returns exactly this node's value.
        branches: The same parts as ``graph/branches.py`` describes them.
    """

    program: torch.export.ExportedProgram
    of_node: Mapping[str, str]
    of_parameter: Mapping[str, str]
    cuts: Mapping[str, list[str]]
    outputs: Mapping[str, str]
    endings: Mapping[str, str]
    branches: Branches

    def names(self) -> list[str]:
        """Every branch that has nodes, in order: inputs, fusion, heads."""
        present = set(self.of_node.values())
        return [name for name in self.branches.names() if name in present]

    def module_ending_at(self, node: str) -> str | None:
        """The outermost submodule whose ``forward`` is called once and returns exactly the value of ``node``; None where none does."""
        return self.endings.get(node)


def find_parts(model: FusedModel) -> TorchBranches:
    """Trace ``model.module`` and derive its parts; the model is left as it is.

    Raises:
        ExportError: torch.export refuses the model; names module and line of its code.
        CardError: The module does not take or return what the card says.
    """
    features = tuple(feature.contiguous() for feature in model.features(sample_inputs(model.card)))
    with evaluating(model):
        program = trace(model, features)
        called = _called(model, features)
    branches = find_branches(_skeleton(program, model.card), model.card)
    graph = program.graph
    outputs = dict(zip(tasks.tensors(model.card), program.graph_signature.user_outputs, strict=True))
    calls = {node.name for node in graph.nodes if node.op == "call_function"}
    to_node = {name: str(node) for name, node in outputs.items()}
    inputs = dict(zip(program.graph_signature.user_inputs, feature_names(model.card), strict=True))
    node_of_input = {name: str(node) for node, name in inputs.items()}
    node_of = {**node_of_input, **to_node}
    cuts = {name: list(dict.fromkeys(node_of.get(tensor, tensor) for tensor in tensors)) for name, tensors in branches.cuts.items()}
    return TorchBranches(
        program=program,
        of_node={name: branch for name, branch in branches.of_node.items() if name in calls},
        of_parameter=_of_parameter(program, branches, model.module),
        cuts=cuts,
        outputs=to_node,
        endings=_endings(program, called),
        branches=branches,
    )


def selected(parts: TorchBranches, selector: str, card: Card) -> list[str]:
    """The branches a recipe's selector means; [] where the model has no such part.

    Raises:
        EdgemmError: The word is no selector of this model and no modality; names those that are.
    """
    names = parts.names()
    return [branch for branch in parts.branches.select(selector, card) if branch in names]


def trace(model: FusedModel, features: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """``model.module`` on ``features`` as torch.export's graph with static shapes; recurrent layers stay whole.

    Raises:
        ExportError, CardError: As ``find_parts``.
    """
    with quiet_calls(), torch.no_grad(), recurrent_by_shape():
        return capture(_Positional(model), features, (None,) * len(features), model)


def operator(node: Node) -> str:
    """``linear`` of a node that calls aten.linear.default; "" of one that calls nothing."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet or node.target, "__name__", node.target))


def modules_of(node: Node) -> list[str]:
    """Names in ``model.module`` of the modules whose ``forward`` was running when the node was made, outermost first."""
    paths = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return [re.sub(r"@\d+", "", path.removeprefix(PREFIX)) for path in paths if path.startswith(PREFIX)]


def tensor_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Placeholder -> name in ``model.module`` of the parameter or buffer it stands for."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {node: name.removeprefix(PREFIX) for node, name in names.items() if name.startswith(PREFIX)}


class _Positional(nn.Module):
    """What is traced: features in, a tuple of outputs in card order out."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.fused = model
        self.training = False

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.fused.call_module(features).values())


def _skeleton(program: torch.export.ExportedProgram, card: Card) -> onnx.ModelProto:
    """torch's graph as an ONNX graph that tells only who reads whom and who multiplies by weights: what the branch rule looks at."""
    renamed = dict(zip(program.graph_signature.user_inputs, feature_names(card), strict=True))
    constants = [node.name for node in program.graph.nodes if node.op == "placeholder" and node.name not in renamed]
    nodes = [
        helper.make_node(_kind(node), _reads(node, renamed, set(constants)), [node.name], name=node.name)
        for node in program.graph.nodes
        if node.op in ("call_function", "get_attr") and operator(node) not in CHECKS
    ]
    for name, tensor in zip(tasks.tensors(card), program.graph_signature.user_outputs, strict=True):
        nodes.append(helper.make_node("Identity", [renamed.get(tensor, tensor)], [name], name=f"output {name}"))
    graph = helper.make_graph(
        nodes, "parts",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in feature_names(card)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tasks.tensors(card)],
        [TensorProto(name=name) for name in constants],
    )  # fmt: skip
    return helper.make_model(graph)


def _kind(node: Node) -> str:
    name = operator(node)
    return "MatMul" if name in WEIGHTED else "Shape" if name in SIZES else "Identity"


def _reads(node: Node, renamed: Mapping[Any, str], constants: set[str]) -> list[str]:
    """What a node reads, constants right after the first: the rule looks for a weight among the first two."""
    first, *rest = [source.name for source in node.all_input_nodes] or [""]
    ordered = [first, *sorted(rest, key=lambda name: name not in constants)]
    return [renamed.get(name, name) for name in ordered if name]


def _of_parameter(program: torch.export.ExportedProgram, branches: Branches, module: nn.Module) -> dict[str, str]:
    branch_of: dict[str, str] = {}
    names = tensor_names(program)
    for node in program.graph.nodes:
        users = [branches.of_node[user.name] for user in node.users if user.name in branches.of_node]
        if node.name in names and users:
            branch_of[names[node.name]] = users[0]
    tensors: dict[int, list[str]] = {}
    for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
        tensors.setdefault(id(tensor), []).append(name)
    for aliases in tensors.values():
        branch = next((branch_of[name] for name in aliases if name in branch_of), None)
        if branch is not None:
            branch_of |= dict.fromkeys(aliases, branch)
    return branch_of


def _called(model: FusedModel, features: tuple[torch.Tensor, ...]) -> dict[str, list[Any]]:
    """Submodule -> what each of its calls returned, as a shape; None for what is no tensor."""
    calls: dict[str, list[Any]] = {}

    def note(name: str, returned: Any) -> None:
        calls.setdefault(name, []).append(tuple(returned.shape) if isinstance(returned, torch.Tensor) else None)

    hooks = [
        part.register_forward_hook(lambda _module, _args, returned, name=name: note(name, returned))
        for name, part in model.module.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            model.call_module(features)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _endings(program: torch.export.ExportedProgram, called: Mapping[str, list[Any]]) -> dict[str, str]:
    """Node -> the outermost submodule called once, of whose nodes only this one is read from outside, and which returns its shape."""
    inside: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        for name in modules_of(node):
            inside.setdefault(name, []).append(node)
    endings: dict[str, str] = {}
    for name in sorted(inside, key=lambda name: (name.count("."), name)):
        nodes = set(inside[name])
        ends = [node for node in inside[name] if any(user not in nodes and operator(user) not in CHECKS for user in node.users)]
        if len(ends) == 1 and called.get(name) == [tuple(getattr(ends[0].meta.get("val"), "shape", ()))]:
            endings.setdefault(ends[0].name, name)
    return endings
