"""What a rule is: what one operator does to the labels of channels; the registry of rules, and the call that a rule sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import Node

from edgemm.workshop.models.torch_branches import TorchBranches, modules_of
from edgemm.workshop.pruning.atoms import Atoms
from edgemm.workshop.pruning.labels import Label

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


class Run(Protocol):
    """The run of a graph that a call is part of: values and labels by node.

    Attributes:
        env: Node -> its value.
        names: Name of a placeholder -> the parameter or buffer it is.
        batch: Samples in the traced batch.
    """

    parts: TorchBranches
    found: Traced
    env: dict[Node, Any]
    names: dict[str, str]
    batch: int

    def label(self, argument: Any) -> Label:
        """Labels of a tensor argument."""
        ...


class Call:
    """One node as its rule sees it: arguments, their values and labels, and where to note what follows."""

    def __init__(self, run: Run, node: Node, value: Any) -> None:
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
        module = next(reversed([name for name in modules_of(self.node) if name]), "")
        return f"{text} (in '{module}')" if module else text

    def freeze(self, label: Label, text: str) -> Label:
        self.atoms.freeze(label.at, self.reason(text))
        return label

    def one_axis(self, label: Label, axis: int, text: str) -> Tensor:
        """One label for each position on ``axis``; atoms that also vary along other axes are tied along those."""
        axis %= len(label.shape)
        if label.has_atoms() and not label.varying() and label.shape[axis] > 1:
            self.freeze(label, f"one channel of it is {text} many times")
        wide = label.at.expand([size if dim == axis else label.at.shape[dim] for dim, size in enumerate(label.shape)])
        tied = self.atoms.tie(wide, axis, self.reason(f"it meets a fixed size where it is {text}"))
        return tied.clamp(min=0)

    def work(self, macs: float, *labels: Tensor) -> None:
        """Note multiply-accumulates of the whole traced batch, in proportion to each of ``labels``."""
        branch = self._run.parts.of_node.get(self.node.name, "fusion")
        self._run.found.works.append(Work(branch, macs / self._run.batch, labels))
