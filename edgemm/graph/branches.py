"""Branches, fusion and heads, derived from the graph alone.

A node that depends on exactly one input belongs to that input's branch. ``head:<o>`` is what follows the last node shared by all
outputs and reaches ``o`` alone, or, where only one output depends on those inputs, the last weighted layer and what follows. The
rest is ``fusion``.
Values that only pass on a size (Shape, Size) make no dependence: an exporter takes the batch size from whichever input it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from edgemm.contracts import plugins
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.frontend_ops import COST_ROW
from edgemm.errors import EdgemmError, nearest

FRONTEND = "frontend/"
SIZE_OPS = ("Shape", "Size")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits", "GRU", "LSTM", "RNN", "Einsum")
MASK_SUFFIX = "_mask"
BESIDE_IDS = ("attention_mask", "token_type_ids", "position_ids")  # what Hugging Face exports call the companions of input_ids


@dataclass(frozen=True)
class Branches:
    """Which node belongs to which part of the model.

    Attributes:
        inputs, outputs: Branch-giving graph inputs and head-giving outputs, in order: a card's, which may join several of the graph's.
        of_node: Node name -> ``<input>``, ``fusion`` or ``head:<output>``; in topological order.
        cuts: Input name -> the tensors in which its branch ends (read by fusion or head, or graph outputs).
        frontend: Names of the nodes that are front-ends; they belong to their input's branch.
        modalities: Input name -> modality, where a card told.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    of_node: Mapping[str, str]
    cuts: Mapping[str, list[str]]
    frontend: frozenset[str]
    modalities: Mapping[str, str]

    def names(self) -> list[str]:
        """Every branch that has nodes, in order: inputs, fusion, heads."""
        present = set(self.of_node.values())
        ordered = [*self.inputs, "fusion", *(f"head:{name}" for name in self.outputs)]
        return [name for name in ordered if name in present]

    def rows(self) -> list[str]:
        """``names()`` with ``frontend:<input>``, where there is one, before what the model itself makes of that input."""
        present = {self.row_of(node) for node in self.of_node}
        return [row for name in self.names() for row in (f"{COST_ROW}{name}", name) if row in present]

    def row_of(self, node: str) -> str:
        """The branch of a node, or ``frontend:<input>``: where its cost is told."""
        branch = self.of_node[node]
        return f"{COST_ROW}{branch}" if node in self.frontend else branch

    def nodes(self, branch: str) -> list[str]:
        """Names of the branch's nodes, in topological order."""
        return [name for name, owner in self.of_node.items() if owner == branch]

    def select(self, selector: str, card: Card | None = None) -> list[str]:
        """The branches a recipe's selector means; [] where the model has no such part (a modality the card lacks, no fusion).

        Raises:
            EdgemmError: The word is no selector of this model and no modality.
        """
        modalities = {name: spec.modality for name, spec in card.inputs.items()} if card else self.modalities
        if selector in self.inputs or selector == "fusion":
            return [selector] if selector in self.names() else []
        if selector == "head":
            return [name for name in self.names() if name.startswith("head:")]
        if selector.startswith("head:") and selector.removeprefix("head:") in self.outputs:
            return [selector] if selector in self.names() else []
        if selector in modalities.values():
            return [name for name in self.names() if modalities.get(name) == selector]
        if selector in plugins.names("modalities"):
            return []
        selectors = [*self.inputs, *modalities.values(), "fusion", "head", *(f"head:{name}" for name in self.outputs)]
        raise EdgemmError(f"'{selector}' is no part of this model.", fix=nearest(selector, set(selectors)))


def find_branches(model: onnx.ModelProto, card: Card | None = None) -> Branches:
    """Derive branches, fusion and heads. Nodes must have unique names (``graph.prepare`` and the exporter give them).

    Args:
        card: Tells which inputs are states or constants (they make no branch) and each input's modality.
    """
    graph = _Graph(model, card)
    owner = graph.owners()
    cuts = {name: graph.cut(name, owner) for name in graph.sources}
    modalities = {name: card.inputs[name].modality for name in graph.sources if card and name in card.inputs}
    frontend = frozenset(name for name in owner if name.startswith(FRONTEND))
    return Branches(tuple(graph.sources), tuple(graph.heads), owner, cuts, frontend, modalities)


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """What a node reads: its inputs, and for If, Loop and Scan what their bodies read from outside."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            inside = {i.name for i in body.input} | {i.name for i in body.initializer} | {o for n in body.node for o in n.output}
            names += [name for inner in body.node for name in node_inputs(inner) if name not in inside]
    return names


def drop_dead(model: onnx.ModelProto) -> None:
    """Remove nodes that no output depends on, then the weights that nobody reads, in place."""
    live = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if live & set(node.output):
            kept.append(node)
            live.update(node_inputs(node))
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    drop_unread(model)


def drop_unread(model: onnx.ModelProto) -> None:
    """Remove the weights that no node reads any more, in place."""
    read = {name for node in model.graph.node for name in node_inputs(node)} | {value.name for value in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


class _Graph:
    """Dependence and reach of every node of one model."""

    def __init__(self, model: onnx.ModelProto, card: Card | None) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {i.name for i in model.graph.initializer}
        inputs = [i.name for i in model.graph.input if i.name not in self.constants]
        self.group = groups(inputs, card)
        self.sources = list(dict.fromkeys(source for source in self.group.values() if source))
        states = {spec.options["state"] for spec in card.inputs.values() if spec.options.get("state")} if card else set()
        owners = tasks.tensors(card) if card else {}
        self.head_of = {o.name: owners.get(o.name, o.name) for o in model.graph.output if o.name not in states}
        self.heads = list(dict.fromkeys(self.head_of.values()))
        self.maker = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [node_inputs(node) for node in self.nodes]
        self.users: dict[str, list[int]] = {}
        for index, names in enumerate(self.reads):
            for name in dict.fromkeys(names):
                self.users.setdefault(name, []).append(index)
        self.depends = self._depends()
        self.ends = self._ends()
        self.reaches = [frozenset(self.head_of[name] for name in ends) for ends in self.ends]

    def _depends(self) -> list[frozenset[str]]:
        """Per node, the inputs whose values (not only sizes) it depends on."""
        of_tensor = {name: frozenset([source] if source else ()) for name, source in self.group.items()}
        depends = []
        for node, names in zip(self.nodes, self.reads, strict=True):
            sources = frozenset().union(*(of_tensor.get(name, frozenset()) for name in names))
            depends.append(frozenset() if node.op_type in SIZE_OPS else sources)
            of_tensor.update(dict.fromkeys(node.output, depends[-1]))
        return depends

    def _ends(self) -> list[frozenset[str]]:
        """Per node, the graph outputs it reaches that give heads."""
        of_tensor: dict[str, frozenset[str]] = {name: frozenset([name]) for name in self.head_of}
        reaches: list[frozenset[str]] = [frozenset()] * len(self.nodes)
        for index in range(len(self.nodes) - 1, -1, -1):
            reach = frozenset().union(*(of_tensor.get(name, frozenset()) for name in self.nodes[index].output))
            reaches[index] = reach
            if self.nodes[index].op_type in SIZE_OPS:
                continue
            for name in self.reads[index]:
                of_tensor[name] = of_tensor.get(name, frozenset()) | reach
        return reaches

    def owners(self) -> dict[str, str]:
        """Node name -> branch."""
        owner: list[str | None] = [self._by_dependence(index) for index in range(len(self.nodes))]
        for inputs, outputs in self._components():
            for name in outputs:
                for index in self._head(name, inputs, outputs):
                    owner[index] = f"head:{name}"
        self._settle_neutral(owner)
        return {node.name: str(branch) for node, branch in zip(self.nodes, owner, strict=True)}

    def _by_dependence(self, index: int) -> str | None:
        sources = self.depends[index]
        return "fusion" if len(sources) > 1 else next(iter(sources)) if sources else None

    def _components(self) -> list[tuple[set[str], list[str]]]:
        """Outputs that depend on a common input belong together, with all inputs they depend on."""
        components: list[tuple[set[str], list[str]]] = []
        for name in self.heads:
            makers = [self.maker[tensor] for tensor, head in self.head_of.items() if head == name and tensor in self.maker]
            inputs, outputs = {source for index in makers for source in self.depends[index]}, [name]
            for other in [entry for entry in components if entry[0] & inputs]:
                components.remove(other)
                inputs, outputs = inputs | other[0], other[1] + outputs
            components.append((inputs, outputs))
        return components

    def _head(self, output: str, inputs: set[str], outputs: list[str]) -> set[int]:
        """Nodes of ``head:<output>``."""
        several = len(inputs) > 1
        region = [i for i, reach in enumerate(self.reaches) if reach & set(outputs) and (len(self.depends[i]) > 1 or not several)]
        region = [i for i in region if self.depends[i] and not self.nodes[i].name.startswith(FRONTEND)]
        alone = [i for i in region if self.reaches[i] == {output}]
        if len(outputs) > 1:
            shared = {i for i in region if self.reaches[i] >= set(outputs)}
            if shared:
                return set(alone) & self._after(shared)
        weighted = [i for i in alone if self._is_weighted(i)]
        of_tensor = [[i for i in weighted if tensor in self.ends[i]] for tensor, head in self.head_of.items() if head == output]
        last = {own[-1] for own in of_tensor if own}
        return last | self._after(last) & set(alone)

    def _after(self, start: set[int]) -> set[int]:
        """Nodes that depend on one of ``start``, without those."""
        tensors = {name for index in start for name in self.nodes[index].output}
        followers: set[int] = set()
        for index, names in enumerate(self.reads):
            if index not in start and tensors & set(names):
                followers.add(index)
                tensors |= set(self.nodes[index].output)
        return followers

    def _is_weighted(self, index: int) -> bool:
        node = self.nodes[index]
        return node.op_type in WEIGHTED and any(not self._varies(name) for name in node.input[:2] if name)

    def _varies(self, name: str) -> bool:
        if name in self.maker:
            return bool(self.depends[self.maker[name]])
        return name in self.group

    def _settle_neutral(self, owner: list[str | None]) -> None:
        """Nodes that depend on no input's values (constants, sizes, states) go with those that use them."""
        for index in range(len(self.nodes) - 1, -1, -1):
            if owner[index] is None:
                users = {owner[user] for name in self.nodes[index].output for user in self.users.get(name, ())} - {None}
                owner[index] = users.pop() if len(users) == 1 else self._nearest_source(index)
        rest = "fusion" if len(self.sources) > 1 else self.sources[0] if self.sources else "fusion"
        for index, branch in enumerate(owner):
            if branch is None:
                owner[index] = rest

    def _nearest_source(self, index: int) -> str | None:
        sources = {self.group.get(name) for name in self.reads[index]} - {None}
        return sources.pop() if len(sources) == 1 else None

    def cut(self, branch: str, owner: Mapping[str, str]) -> list[str]:
        """Tensors of ``branch`` that others read, or that are graph outputs."""
        own = [name for name, source in self.group.items() if source == branch]
        own += [name for node in self.nodes if owner[node.name] == branch for name in node.output if name]
        tensors = []
        for name in own:
            maker = self.maker.get(name)
            if maker is not None and not self.depends[maker]:
                continue  # a size or a constant that happens to live here
            outside = [u for u in self.users.get(name, ()) if owner[self.nodes[u].name] != branch and self.nodes[u].op_type not in SIZE_OPS]
            if outside or name in self.head_of:
                tensors.append(name)
        return tensors


def groups(inputs: Iterable[str], card: Card | None) -> dict[str, str | None]:
    """Graph input -> the input whose branch it makes; None for states and constants."""
    inputs = list(inputs)
    group: dict[str, str | None] = {}
    for name in inputs:
        spec = card.inputs.get(name) if card else None
        if spec is not None and (spec.options.get("state") or "value" in spec.options):
            group[name] = None
        elif spec is None and name.endswith(MASK_SUFFIX) and name.removesuffix(MASK_SUFFIX) in inputs:
            group[name] = name.removesuffix(MASK_SUFFIX)
        elif spec is None and name in BESIDE_IDS and "input_ids" in inputs:
            group[name] = "input_ids"
        else:
            group[name] = name
    return group


def name_owners(model: onnx.ModelProto, branches: Branches) -> dict[str, str]:
    """Node name, and name of each tensor that a node makes -> row of a table of costs. Runtimes call a layer by either."""
    return dict(_named(model, branches))


def _named(model: onnx.ModelProto, branches: Branches) -> Iterator[tuple[str, str]]:
    for node in model.graph.node:
        row = branches.row_of(node.name)
        for name in (node.name, *node.output):
            if name:
                yield name, row
