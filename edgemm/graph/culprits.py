"""Who broke the rung to the target: the first node, in the order of the graph, whose value differs from the reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import onnx

from edgemm.contracts.rung import Culprit, Difference
from edgemm.contracts.target import Session
from edgemm.errors import TargetError
from edgemm.graph import files, parity
from edgemm.graph.branches import WEIGHTED, Branches
from edgemm.graph.parity import Feed

LOOKED_AT = 2  # samples; the reference keeps every tensor of each
SILENT = ("QuantizeLinear", "Constant", "Shape", "Size", "Range")
THROUGH = ("QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "Add", "Mul", "Identity")


def in_target(
    graph: onnx.ModelProto, branches: Branches, samples: Sequence[Feed], reopen: Callable[[Path], Session]
) -> tuple[Culprit | None, dict[str, Difference], str]:
    """Culprit, differences where branches end, and a note, for a Q/DQ graph that a target computes wrongly.

    Looking changes what is looked at: a tensor that is made an output may no longer be fused. So each is looked at alone.
    """
    search = _Search(graph, samples[:LOOKED_AT], reopen)
    cuts = {branch: [name for name in tensors if name in search.order] for branch, tensors in branches.cuts.items()}
    by_branch = {branch: parity.worst(differences) for branch, tensors in cuts.items() if tensors and (differences := search.look(tensors))}
    broken = [branch for branch, entry in by_branch.items() if entry.sqnr_db < parity.TARGET_SQNR_DB]
    within = set(branches.nodes(broken[0])) if broken else set(branches.of_node)
    first = search.first([name for name in search.order if search.maker[name].name in within])
    if first is None:
        culprit = Culprit(broken[0]) if broken else None
        return culprit, by_branch, "the error vanishes when single tensors are looked at" if not broken else ""
    node = _responsible(first, search.maker)
    return Culprit(branches.of_node[node.name], node.name), by_branch, ""


class _Search:
    """Looks at single tensors of the graph in the target and in the reference."""

    def __init__(self, graph: onnx.ModelProto, samples: Sequence[Feed], reopen: Callable[[Path], Session]) -> None:
        self.graph, self.samples, self.reopen = graph, samples, reopen
        self.maker = {name: node for node in graph.graph.node for name in node.output if name}
        weights = {node.name for node in graph.graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in self.maker}
        names = [n for node in graph.graph.node if node.op_type not in SILENT and node.name not in weights for n in node.output if n]
        self.reference, _ = parity.run_reference(parity.with_outputs(graph, names), samples)
        self.order = [name for name in names if self.reference[name].dtype.kind == "f"]

    def look(self, tensors: Iterable[str]) -> dict[str, Difference]:
        """Differences of ``tensors``; {} where the target refuses the graph with them as outputs."""
        tensors = list(tensors)
        with tempfile.TemporaryDirectory(prefix="edgemm-") as folder:
            path = files.save(parity.with_outputs(self.graph, tensors), Path(folder) / "model.onnx")
            try:
                with self.reopen(path) as session:
                    rows = [[session.run(dict(sample))[name] for name in tensors] for sample in self.samples]
            except TargetError:
                return {}
        return parity.compare({name: self.reference[name] for name in tensors}, parity.join(tensors, rows))

    def wrong(self, tensor: str) -> bool:
        differences = self.look([tensor])
        return bool(differences) and differences[tensor].sqnr_db < parity.TARGET_SQNR_DB

    def first(self, order: Sequence[str]) -> str | None:
        """The first wrong tensor of ``order``, by bisection: what follows a wrong tensor is taken to be wrong."""
        if not order or not self.wrong(order[-1]):
            return next((name for name in order if self.wrong(name)), None) if len(order) < 64 else None
        low, high = -1, len(order) - 1  # order[high] is wrong
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.wrong(order[middle]) else (middle, high)
        return order[high]


def _responsible(tensor: str, maker: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The layer behind a wrong tensor: through activations and quantizers up to the nearest node with weights, else the maker itself."""
    node = maker[tensor]
    while node.op_type in THROUGH and node.op_type not in WEIGHTED:
        before = next((maker[name] for name in node.input if name in maker), None)
        if before is None:
            return maker[tensor]
        node = before
    return node if node.op_type in WEIGHTED else maker[tensor]
