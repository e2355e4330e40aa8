"""The ladder's first rung, torch -> ONNX: the exported graph computes what the module does, or the first node that does not is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgemm.contracts import task as tasks
from edgemm.contracts.rung import Rung
from edgemm.errors import ParityError
from edgemm.graph import files, parity
from edgemm.graph.branches import FRONTEND, find_branches
from edgemm.graph.parity import Feed
from edgemm.workshop.models import values
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.onnx_export import trace

JUMPING = ("Sign", "Floor", "Ceil", "Round", "Mod", "ArgMax", "ArgMin", "TopK", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")
"""Operators that answer the least change of their input by a step."""


def check_export(model: FusedModel, onnx_path: Path, samples: Sequence[Feed]) -> Rung:
    """The rung torch -> ONNX: each output on each sample, and on all samples as one batch.

    Raises:
        ParityError: An output differs; names it, the error, and the branch and node where the difference arises.
    """
    names = list(tasks.tensors(model.card))
    graph = files.load(onnx_path)
    feeds = [*samples, *_one_batch(samples)]
    reference = parity.join(names, [list(values.outputs(model, feed).values()) for feed in feeds])
    exported, _ = parity.run_reference(graph, feeds)
    rung = Rung("torch to ONNX", "torch", "ONNX Runtime", parity.compare(reference, {name: exported[name] for name in names}))
    broken = [name for name, entry in rung.outputs.items() if not parity.within(entry)]
    if not broken:
        return rung
    branch, node, is_jump = next((culprit for feed in feeds if any(culprit := _culprit(model, graph, feed))), ("", "", False))
    worst = rung.outputs[broken[0]]
    what = f"output '{broken[0]}' of the exported graph differs from torch by {worst.max_abs:.3g} (its scale is {worst.scale:.3g})."
    why = f"the difference arises in branch '{branch}' at node '{node}'." if node else "no single node could be named."
    if is_jump:
        jump = f"{why[:-1]}, which jumps: what float32 rounds off in its input, whoever computes it, is a step in its answer."
        raise ParityError(what, why=jump, fix="give the model what does not jump there: cos and sin of an angle, a sigmoid for a sign.")
    raise ParityError(
        what, why=why, fix="write that layer with simpler torch operations; please report the model, the exporter writes it wrongly."
    )


def _one_batch(samples: Sequence[Feed]) -> list[Feed]:
    """All samples as one feed, where their shapes allow it: a graph that works for one sample may mix several."""
    shapes = {tuple((name, value.shape) for name, value in sample.items()) for sample in samples}
    if len(samples) < 2 or len(shapes) > 1 or any(value.shape[:1] != (1,) for value in samples[0].values()):
        return []
    return [{name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}]


def _culprit(model: FusedModel, graph: onnx.ModelProto, sample: Feed) -> tuple[str, str, bool]:
    """(branch, node, whether its answer jumps) where the exported graph first differs from torch; empty strings where none does.

    The model is traced again: names of torch's nodes are names of the graph's tensors.
    """
    features = values.features(model, sample)
    expected = values.on_the_way(trace(model).program, features)
    expected |= {f"{FRONTEND}{name}/out": value for name, value in features.items()}
    expected |= values.outputs(model, sample)
    tensors = [(name, node) for node in graph.graph.node for name in node.output if name in expected]
    exported, _ = parity.run_reference(parity.with_outputs(graph, [name for name, _ in tensors]), [sample])
    owner = find_branches(graph, model.card).of_node
    for name, node in tensors:
        value = expected[name].reshape(-1)
        if value.size == exported[name].size and not parity.within(parity.difference(value, exported[name])):
            return owner[node.name], node.name, node.op_type in JUMPING or _is_turned(value, exported[name].reshape(-1))
    return "", "", False


def _is_turned(value: np.ndarray, other: np.ndarray) -> bool:
    """Whether what differs are angles on both sides of where they are cut, a whole turn apart."""
    apart = np.abs(value.astype(np.float64) - other)
    turns = apart[apart > 0.01]
    return bool(turns.size and np.allclose(turns, 2 * np.pi, rtol=0, atol=0.01))
