"""How near each branch runs to what the box can do, and which layers waste time: reference kernels, other precisions, reorders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.layers import MULTIPLIES, layer_owners
from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts.card import Card
from edgemm.contracts.modality import input_specs
from edgemm.contracts.plain_values import read
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import LayerRan
from edgemm.contracts.timing_parts import BranchLimit, Peaks, WastefulLayer

REORDERS = frozenset({"Reorder", "ReorderInput", "ReorderOutput"})
TOLD_SHARE = 0.001  # of all layers' time: what costs less is not worth a line
FLOATS = ("bf16", "f16", "f32")


def profile(candidate: Candidate, feed: Path, *, limit_s: float = 300.0) -> list[LayerRan]:
    """The layers of a candidate with their times, from a process of its own; times are missing where the runtime tells none.

    Raises:
        EdgemmError: What the worker raised; MeasureError when it crashed or hung.
    """
    with WorkerProcess(candidate.name, times=True) as worker:
        answer = worker.ask("profile", limit_s=limit_s, **candidate.opening(feed))
    return read(list[LayerRan], answer["layers"])


def roofline(model: Path, card: Card | None, layers: Sequence[LayerRan], peaks: Peaks) -> list[BranchLimit]:
    """A row for each branch and front-end: its time, what it would take at the box's limit, that as a share of it, and what limits it.

    Args:
        model: The ONNX file that ran.
        layers: As ``profile`` gives them.
    """
    from edgemm.graph import files  # onnx: only where a model is really looked at
    from edgemm.graph.branches import find_branches, name_owners
    from edgemm.graph.costs import branch_costs

    graph = files.load(model)
    branches = find_branches(graph, card)
    sizes = {spec.name: tuple(1 if size == BATCH else size for size in spec.shape) for spec in input_specs(card)} if card else {}
    costs, owners = branch_costs(graph, branches, sizes), layer_owners(layers, name_owners(graph, branches))
    rows = []
    for name in branches.rows():
        own = [(layer, len(of)) for layer, of in zip(layers, owners, strict=True) if name in of]
        time_us = sum((layer.time_us or 0.0) / sharers for layer, sharers in own)
        if not own or not time_us:
            continue
        words = {layer.precision for layer, _ in own if any(part in layer.kind for part in MULTIPLIES)}
        words = words or {layer.precision for layer, _ in own}  # small products run inside a "Subgraph"
        rows.append(_row(name, time_us, len(own), 2 * costs[name].macs, costs[name].stored_bytes, words, peaks))
    return rows


def audit(model: Path, layers: Sequence[LayerRan], asked: str) -> list[WastefulLayer]:
    """Layers that waste time, the costliest first.

    Args:
        asked: ``int8+bf16``: what the candidate was asked to run in.
    """
    from edgemm.graph import files  # onnx: only where a model is really looked at

    quantized = _quantized_nodes(files.load(model))
    total = sum(layer.time_us or 0.0 for layer in layers)
    rows = []
    for index, layer in enumerate(layers):
        findings = list(_findings(layers, index, quantized, asked))
        share = (layer.time_us or 0.0) / total if total else None
        if findings and (share is None or share >= TOLD_SHARE):
            words = (layer.name, layer.kind, layer.kernel, layer.precision, ", ".join(findings))
            rows.append(WastefulLayer(*words, layer.time_us, share))
    return sorted(rows, key=lambda row: -(row.time_us or 0.0))


def _row(branch: str, time_us: float, count: int, operations: int, weight_bytes: int, words: set[str], peaks: Peaks) -> BranchLimit:
    rates = [rate for word in words if (rate := peaks.gops.get(word))]
    floors = {
        "compute": operations / (max(rates) * 1e3) if rates else 0.0,  # 10^9 operations a second = 10^3 a microsecond
        "memory": weight_bytes / (peaks.bandwidth_gbs * 1e3),
        "launch overhead": count * (peaks.layer_us or 0.0),
    }
    limit = max(floors["compute"], floors["memory"])
    compute_us, memory_us, launch_us = floors.values()
    reason = max(floors, key=lambda key: floors[key])
    return BranchLimit(branch, time_us, count, compute_us, memory_us, launch_us, min(1.0, limit / time_us), reason)


def _findings(layers: Sequence[LayerRan], index: int, quantized: frozenset[str], asked: str) -> Iterator[str]:
    layer = layers[index]
    names = {name.strip() for name in layer.name.split(",")}
    multiplies = any(part in layer.kind for part in MULTIPLIES)
    floats = [word for word in asked.split("+") if word in FLOATS]
    if "ref" in layer.kernel.split("_"):
        yield "reference kernel"
    if multiplies and names & quantized and layer.precision != "int8":
        yield f"asked int8, ran {layer.precision}"
    elif multiplies and not names & quantized and floats and layer.precision in FLOATS and layer.precision not in floats:
        yield f"asked {floats[0]}, ran {layer.precision}"
    if layer.kind in REORDERS:
        yield "reorder"
    elif 0 < index < len(layers) - 1 and {layers[index - 1].kind, layers[index + 1].kind} <= REORDERS:
        yield "between two reorders"


def _quantized_nodes(graph: Any) -> frozenset[str]:
    """Nodes (and the tensors they make) whose first two inputs both come out of DequantizeLinear."""
    dequantized = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    nodes = [node for node in graph.graph.node if len(node.input) > 1 and set(node.input[:2]) <= dequantized]
    return frozenset(name for node in nodes for name in (node.name, *node.output) if name)


def save_feed(feed: Mapping[str, np.ndarray], folder: Path) -> Path:
    """The file a worker reads its inputs from."""
    path = folder / "feed.npz"
    np.savez(path, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
    return path
