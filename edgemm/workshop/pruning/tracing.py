"""Runs torch's graph on labels beside values: every operator says what it does to the channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgemm.workshop.models.torch_branches import CHECKS, TorchBranches, operator, tensor_names
from edgemm.workshop.pruning import rules_joining, rules_moving, rules_weighted  # noqa: F401  each registers its rules
from edgemm.workshop.pruning.atoms import IS_OUTPUT
from edgemm.workshop.pruning.labels import Label, fixed, gather, renewed
from edgemm.workshop.pruning.rules import RULES, Call, Labels, Traced


class _Run(Interpreter):
    """The graph on real features, with labels beside."""

    def __init__(self, parts: TorchBranches, traced: Traced, batch: int) -> None:
        super().__init__(parts.program.graph_module)
        self.parts, self.found, self.batch = parts, traced, batch
        self.names = tensor_names(parts.program)
        self.known: dict[Node, Labels] = {}
        self.live = _live(parts.program.graph)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n in self.live:
            self.known[n] = self._follow(n, value)
        elif n.op == "output":
            for node in n.all_input_nodes:
                self.found.atoms.freeze(self.label(node).at, IS_OUTPUT)
        return value

    def label(self, argument: Any) -> Label:
        value = self.env[argument] if isinstance(argument, Node) else argument
        if not isinstance(value, Tensor):
            return fixed(())
        if isinstance(argument, Node) and argument.name in self.names and value.is_floating_point():
            return self._bare(self.names[argument.name], value)
        labels = self.known.get(argument) if isinstance(argument, Node) else None
        return renewed(labels, self.found.atoms) if isinstance(labels, Label) else fixed(tuple(value.shape))

    def _bare(self, name: str, value: Tensor) -> Label:
        if name not in self.found.bare:
            wild = self.found.atoms.fresh(value.numel(), wild=True).reshape(value.shape)
            self.found.bare[name] = gather(wild, self.found.atoms)
        return renewed(self.found.bare[name], self.found.atoms)

    def _follow(self, node: Node, value: Any) -> Labels:
        """The labels of what a node makes. An operator without a rule freezes whatever goes in."""
        name = operator(node)
        if name in CHECKS:
            return None
        if name == "getitem":
            of = self.known.get(node.args[0])  # type: ignore[arg-type]
            return of[node.args[1]] if isinstance(of, tuple) else self._nothing(value)  # type: ignore[index]
        call = Call(self, node, value)
        follow = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if follow is not None:
            try:
                return follow(call)
            except Exception as err:  # a rule met a form of the operator it was not written for
                text = f"'{name}' is used in a form that the analysis does not follow: {err}"
        else:
            text = f"the analysis has no rule for '{name}'"
        for label in call.labels():
            if label.has_atoms():
                self.found.unknown[name] = self.found.unknown.get(name, 0) + 1
                call.freeze(label, text)
        return self._nothing(value)

    def _nothing(self, value: Any) -> Labels:
        if isinstance(value, (tuple, list)):
            return tuple(self._nothing(part) for part in value)
        return fixed(tuple(value.shape)) if isinstance(value, Tensor) else None


def _live(graph: torch.fx.Graph) -> set[Node]:
    """Nodes that an output, or something that writes in place, depends on; the others (unread attention weights) constrain nothing."""
    live: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in live or (operator(node).endswith("_") and operator(node) not in CHECKS):
            live.add(node)
            live.update(node.all_input_nodes)
    return live


def follow(parts: TorchBranches, features: tuple[Tensor, ...]) -> Traced:
    """Run the graph of ``parts`` once on ``features`` and note how its channels hang together."""
    traced = Traced()
    with torch.no_grad():
        _Run(parts, traced, len(features[0])).run(*_arguments(parts.program, features))
    _settle_bare(traced)
    return traced


def _arguments(program: torch.export.ExportedProgram, features: tuple[Tensor, ...]) -> list[Any]:
    """Parameters, buffers and features in the order of the graph's placeholders."""
    feature_iterator = iter(features)
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            values.append(next(feature_iterator))
        else:
            state: Mapping[str, Any] = program.state_dict
            values.append(state[spec.target] if spec.target in state else program.constants[spec.target])
    return values


def _settle_bare(traced: Traced) -> None:
    """Give bare parameters that channels claimed a slot on the one axis along which the claims differ; freeze other claims."""
    atoms = traced.atoms
    for name, label in traced.bare.items():
        roots = atoms.roots(label.at.expand(label.shape))
        claimed = atoms.is_claimed(roots) & (roots > 0)
        if not claimed.any():
            continue
        axes = [axis for axis in range(roots.dim()) if _is_uniform(roots, claimed, axis)]
        if len(axes) != 1:
            atoms.freeze(roots[claimed], f"'{name}' holds its numbers on more than one axis")
            continue
        rows = torch.where(claimed, roots, 0).movedim(axes[0], 0).reshape(roots.shape[axes[0]], -1)
        atoms.fill(name, axes[0], rows.max(1).values)


def _is_uniform(roots: Tensor, claimed: Tensor, axis: int) -> bool:
    """Whether each position on ``axis`` was claimed by one root, and different positions by different ones."""
    rows = torch.where(claimed, roots, 0).movedim(axis, 0).reshape(roots.shape[axis], -1)
    most = rows.max(1).values
    alike = bool(((rows == most[:, None]) | (rows == 0)).all())
    return alike and roots.shape[axis] > 1 and len(torch.unique(most)) > 1
