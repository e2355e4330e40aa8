"""The ladder's rungs in ONNX: float graph -> Q/DQ -> target, on real samples; a rung that breaks is named by branch and node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from edgemm.contracts.card import Card
from edgemm.contracts.target import Session
from edgemm.graph import files
from edgemm.graph.branches import Branches, find_branches
from edgemm.graph.culprits import in_target
from edgemm.graph.parity import (
    POOR_SQNR_DB,
    SECONDS_A_RUNG,
    TARGET_SQNR_DB,
    Arrays,
    Difference,
    Feed,
    Rung,
    compare,
    join,
    run_reference,
    with_outputs,
    worst,
)  # fmt: skip


def check_graphs(
    reference: Path,
    quantized: Path,
    session: Session,
    samples: Sequence[Feed],
    *,
    card: Card | None = None,
    target: str = "target",
    reopen: Callable[[Path], Session] | None = None,
) -> list[Rung]:
    """The rungs ONNX -> Q/DQ and Q/DQ -> target, as the target is opened.

    Args:
        reference: The float graph. May be the same file as ``quantized`` (a float deployment): then there is only the second rung.
        session: ``quantized``, opened in the shape mode and with the options that ship.
        reopen: Opens another ONNX file in the same way; used to find the culprit when the target's rung breaks.

    Returns:
        Rungs. The first never fails: what quantizing costs is judged by accuracy. The second fails where the target's error is above
        ``TARGET_SQNR_DB`` and also above what quantizing costs.
    """
    graph = files.load(quantized)
    branches = find_branches(graph, card)
    rungs: list[Rung] = []
    costs: dict[str, Difference] = {}
    if reference.resolve() == quantized.resolve():
        expected, count = run_reference(graph, samples, seconds=SECONDS_A_RUNG)
    else:
        rung, expected, count = _quantizing(files.load(reference), graph, branches, samples, card)
        rungs.append(rung)
        costs = dict(rung.outputs)
    names = [value.name for value in graph.graph.output]
    rows = [_answers(session, sample, names) for sample in samples[:count]]
    rung = judge_target({name: expected[name] for name in names}, join(names, rows), costs, target)
    if not rung.ok and reopen is not None:
        culprit, by_branch, note = in_target(graph, branches, samples[:count], reopen)
        rung = Rung(
            rung.name, rung.reference, rung.candidate, rung.outputs, by_branch, False, culprit, "; ".join(filter(None, (rung.note, note)))
        )
    return [*rungs, rung]


def judge_target(reference: Feed, found: Feed, costs: Mapping[str, Difference], target: str = "target") -> Rung:
    """The rung Q/DQ -> target from both sides' outputs; ``costs``: what quantizing did to each output."""
    outputs = compare(reference, found)
    broken = [
        name for name, entry in outputs.items() if entry.sqnr_db < min(TARGET_SQNR_DB, costs[name].sqnr_db if name in costs else np.inf)
    ]
    note = f"output '{broken[0]}' is off by {outputs[broken[0]].max_abs:.3g} at a scale of {outputs[broken[0]].scale:.3g}" if broken else ""
    return Rung(f"Q/DQ to {target}", "ONNX Runtime, no optimisation", target, outputs, ok=not broken, note=note)


def _answers(session: Session, sample: Feed, names: Sequence[str]) -> list[np.ndarray]:
    input_names = {spec.name for spec in session.inputs}
    answers = session.run({key: value for key, value in sample.items() if key in input_names})
    return [answers[name] for name in names]


def _quantizing(
    plain: onnx.ModelProto, graph: onnx.ModelProto, branches: Branches, samples: Sequence[Feed], card: Card | None
) -> tuple[Rung, Arrays, int]:
    """The rung ONNX -> Q/DQ, with the Q/DQ graph's values and the number of samples that ran."""
    cuts = find_branches(plain, card).cuts
    node_outputs = {name for node in graph.graph.node for name in node.output}
    kept = {branch: [name for name in tensors if name in node_outputs] for branch, tensors in cuts.items()}
    exposed = [name for tensors in kept.values() for name in tensors]
    values, count = run_reference(with_outputs(graph, exposed), samples, seconds=SECONDS_A_RUNG)
    expected, _ = run_reference(with_outputs(plain, exposed), samples[:count])
    outputs = compare({value.name: expected[value.name] for value in plain.graph.output}, values)
    by_branch = {branch: worst(compare({name: expected[name] for name in names}, values)) for branch, names in kept.items() if names}
    poor = [f"{what} '{name}' has {entry.sqnr_db:.0f} dB" for what, group in (("output", outputs), ("branch", by_branch))
            for name, entry in group.items() if entry.sqnr_db < POOR_SQNR_DB]  # fmt: skip
    note = f"poor after quantizing: {', '.join(poor)}" if poor else ""
    return Rung("ONNX to Q/DQ", "ONNX Runtime, float", "ONNX Runtime, Q/DQ", outputs, by_branch, note=note), values, count
