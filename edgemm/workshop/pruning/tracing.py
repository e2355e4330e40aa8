"""Runs torch's graph on labels beside values: every operator says what it does to the channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from edgemm.workshop.models.torch_branches import CHECKS, Parts, modules_of, operator, tensor_names
from edgemm.workshop.pruning.atoms import Atoms
from edgemm.workshop.pruning.labels import Label, fixed, gather, renewed

Labels = Label | tuple[Any, ...] | None
Rule = Callable[["Call"], Labels]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers what an operator does to labels; ``names`` as ``parts.operator`` gives them."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one node: ``macs`` for one sample, in proportion to the share kept of each of ``labels``."""

    branch: str
    macs: float
    labels: tuple[Tensor, ...]


@dataclass
class Traced:
    """What a trace finds.

    Attributes:
        works: Multiply-accumulates of every node that has some.
        unknown: Names of operators that no rule covers.
    """

    atoms: Atoms = field(default_factory=Atoms)
    works: list[Work] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    bare: dict[str, Label] = field(default_factory=dict)


class Call:
    """One node as its rule sees it: arguments, their values and labels, and where to note what follows."""

    def __init__(self, run: _Run, node: Node, value: Any) -> None:
        self.node, self.value, self._run = node, value, run
        self.args, self.kwargs = node.args, node.kwargs
        self.atoms = run.found.atoms

    def arg(self, place: int, name: str = "", default: Any = None) -> Any:
        """An argument by place, or by name where it was given so."""
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, default)

    def real(self, argument: Any) -> Any:
        """An argument with nodes replaced by their values."""
        return torch.fx.node.map_arg(argument, lambda node: self._run.env[node])

    def label(self, argument: Any) -> Label:
        """Labels of a tensor argument; a bare parameter gets one wild atom for each element."""
        return self._run.label(argument)

    def labels(self) -> list[Label]:
        """Labels of all tensor arguments, lists included."""
        return [self.label(node) for node in self.node.all_input_nodes if isinstance(self._run.env.get(node), Tensor)]

    def parameter(self, argument: Any) -> str | None:
        """The name of the parameter or buffer that an argument is; None for anything else."""
        return self._run.names.get(argument.name) if isinstance(argument, Node) else None

    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def reason(self, text: str) -> str:
        """A reason with the place in the model."""
        place = next(reversed([name for name in modules_of(self.node) if name]), "")
        return f"{text} (in '{place}')" if place else text

    def freeze(self, label: Label, text: str) -> Label:
        self.atoms.freeze(label.at, self.reason(text))
        return label

    def one_axis(self, label: Label, axis: int, text: str) -> Tensor:
        """One label for each position on ``axis``; atoms that also vary along other axes are tied along those."""
        axis %= len(label.shape)
        if label.has_atoms() and not label.varying() and label.shape[axis] > 1:
            self.freeze(label, f"one channel of it is {text} many times")
        wide = label.at.expand([size if place == axis else label.at.shape[place] for place, size in enumerate(label.shape)])
        found = self.atoms.tie(wide, axis, self.reason(f"it meets a fixed size where it is {text}"))
        return found.clamp(min=0)

    def work(self, macs: float, *labels: Tensor) -> None:
        """Note multiply-accumulates of the whole traced batch, in proportion to each of ``labels``."""
        branch = self._run.parts.of_node.get(self.node.name, "fusion")
        self._run.found.works.append(Work(branch, macs / self._run.batch, labels))


class _Run(Interpreter):
    """The graph on real features, with labels beside."""

    def __init__(self, parts: Parts, found: Traced, batch: int) -> None:
        super().__init__(parts.program.graph_module)
        self.parts, self.found, self.batch = parts, found, batch
        self.names = tensor_names(parts.program)
        self.known: dict[Node, Labels] = {}
        self.live = _live(parts.program.graph)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n in self.live:
            self.known[n] = self._follow(n, value)
        elif n.op == "output":
            for node in n.all_input_nodes:
                self.found.atoms.freeze(self.label(node).at, "it is an output of the model")
        return value

    def label(self, argument: Any) -> Label:
        value = self.env[argument] if isinstance(argument, Node) else argument
        if not isinstance(value, Tensor):
            return fixed(())
        if isinstance(argument, Node) and argument.name in self.names and value.is_floating_point():
            return self._bare(self.names[argument.name], value)
        known = self.known.get(argument) if isinstance(argument, Node) else None
        return renewed(known, self.found.atoms) if isinstance(known, Label) else fixed(tuple(value.shape))

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


def follow(parts: Parts, features: tuple[Tensor, ...]) -> Traced:
    """Run the graph of ``parts`` once on ``features`` and note how its channels hang together."""
    from edgemm.workshop.pruning import rules_joining, rules_moving, rules_weighted  # noqa: F401  each registers its rules

    found = Traced()
    with torch.no_grad():
        _Run(parts, found, len(features[0])).run(*_arguments(parts.program, features))
    _settle_bare(found)
    return found


def _arguments(program: torch.export.ExportedProgram, features: tuple[Tensor, ...]) -> list[Any]:
    """Parameters, buffers and features in the order of the graph's placeholders."""
    given = iter(features)
    values: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.target is None:
            values.append(next(given))
        else:
            state: Mapping[str, Any] = program.state_dict
            values.append(state[spec.target] if spec.target in state else program.constants[spec.target])
    return values


def _settle_bare(found: Traced) -> None:
    """Give bare parameters that channels claimed a slot on the one axis along which the claims differ; freeze other claims."""
    atoms = found.atoms
    for name, made in found.bare.items():
        roots = atoms.roots(made.at.expand(made.shape))
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
