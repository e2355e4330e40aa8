"""The ladder's rungs in ONNX: float graph -> Q/DQ -> target, on real samples; a rung that breaks is named by branch and node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.rung import Difference, Rung
from edgemm.contracts.target import Session
from edgemm.graph import files
from edgemm.graph.branches import find_branches
from edgemm.graph.culprits import in_target
from edgemm.graph.parity import (
    POOR_SQNR_DB,
    SECONDS_A_RUNG,
    TARGET_SQNR_DB,
    Arrays,
    Feed,
    compare,
    difference,
    is_mask,
    join,
    run_reference,
    run_rows,
    worst,
)  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a quantized graph means, whoever runs it.

    Attributes:
        expected: Output -> what ONNX Runtime computes, without optimisation, over the first ``count`` samples, flat.
        rung: The rung ONNX -> Q/DQ; None where nothing was quantized.
    """

    expected: Arrays
    count: int
    rung: Rung | None = None


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
    meaning = meaning_of(reference, quantized, samples, card=card)
    rung = check_target(meaning, quantized, session, samples, card=card, target=target, reopen=reopen)
    return [rung] if meaning.rung is None else [meaning.rung, rung]


def meaning_of(reference: Path, quantized: Path, samples: Sequence[Feed], *, card: Card | None = None) -> Meaning:
    """What ``check_target`` holds a target against: no matter which target, and with which options; arguments as in ``check_graphs``."""
    graph = files.load(quantized)
    if reference.resolve() == quantized.resolve():
        return Meaning(*run_reference(graph, samples, seconds=SECONDS_A_RUNG))
    return _quantizing(files.load(reference), graph, samples, card)


def check_target(
    meaning: Meaning,
    quantized: Path,
    session: Session,
    samples: Sequence[Feed],
    *,
    card: Card | None = None,
    target: str = "target",
    reopen: Callable[[Path], Session] | None = None,
) -> Rung:
    """The rung Q/DQ -> target; arguments as in ``check_graphs``."""
    names = list(meaning.expected)
    used = samples[: meaning.count]
    rows = [_answers(session, sample, names) for sample in used]
    answers = join(names, [[*row.values()] for row in rows])
    costs = meaning.rung.outputs if meaning.rung else {}
    rung = judge_target(meaning.expected, answers, costs, target, meanings=_of_rows(meaning.expected, rows, card))
    if rung.ok or reopen is None:
        return rung
    graph = files.load(quantized)
    culprit, by_branch, note = in_target(graph, find_branches(graph, card), used, reopen)
    return replace(rung, branches=by_branch, culprit=culprit, note="; ".join(filter(None, (rung.note, note))))


def judge_target(
    reference: Feed,
    found: Feed,
    costs: Mapping[str, Difference],
    target: str = "target",
    *,
    meanings: Mapping[str, Difference] = MappingProxyType({}),
) -> Rung:
    """The rung Q/DQ -> target from both sides' outputs.

    Args:
        costs: What quantizing did to each output.
        meanings: What ``by_meaning`` found, judged as outputs are.
    """
    outputs = {**compare(reference, found), **meanings}
    broken = [
        name for name, entry in outputs.items() if entry.sqnr_db < min(TARGET_SQNR_DB, costs[name].sqnr_db if name in costs else np.inf)
    ]
    note = f"output '{broken[0]}' is off by {outputs[broken[0]].max_abs:.3g} at a scale of {outputs[broken[0]].scale:.3g}" if broken else ""
    return Rung(f"Q/DQ to {target}", "ONNX Runtime, no optimisation", target, outputs, ok=not broken, note=note)


def by_meaning(reference: Sequence[Feed], other: Sequence[Feed], card: Card | None) -> dict[str, Difference]:
    """How far answers to the same samples are apart in what their tasks say that they mean: ``<output> <word>`` -> difference."""
    if card is None:
        return {}
    differences: dict[str, Difference] = {}
    for name, task in tasks.tasks(card).items():
        ours, theirs = (_together(rows, task.reads) for rows in (reference, other))
        if ours and theirs:
            differences |= {f"{name} {word}": difference(*pair) for word, pair in task.compared(ours, theirs).items()}
    return differences


def _together(rows: Sequence[Feed], names: Sequence[str]) -> Arrays:
    """Some tensors of all samples; {} where they have no one shape."""
    shapes = {name: {row[name].shape[1:] if name in row else None for row in rows} for name in names}
    if any(len(found) > 1 or None in found for found in shapes.values()):
        return {}
    return {name: np.concatenate([row[name] for row in rows]) for name in names}


def _of_rows(expected: Feed, rows: Sequence[Arrays], card: Card | None) -> dict[str, Difference]:
    """``by_meaning`` of what is expected, flat over all samples, and of answers, which tell the shapes."""
    ends = {name: np.cumsum([row[name].size for row in rows]) for name in expected}
    if any(not len(sizes) or sizes[-1] != expected[name].size for name, sizes in ends.items()):
        return {}
    parts = {name: np.split(expected[name], sizes[:-1]) for name, sizes in ends.items()}
    reference = [{name: parts[name][index].reshape(row[name].shape) for name in expected} for index, row in enumerate(rows)]
    return by_meaning(reference, rows, card)


def _answers(session: Session, sample: Feed, names: Sequence[str]) -> Arrays:
    input_names = {spec.name for spec in session.inputs}
    answers = session.run({key: value for key, value in sample.items() if key in input_names})
    return {name: answers[name] for name in names}


def _quantizing(plain: onnx.ModelProto, graph: onnx.ModelProto, samples: Sequence[Feed], card: Card | None) -> Meaning:
    """With the rung ONNX -> Q/DQ."""
    cuts = find_branches(plain, card).cuts
    node_outputs = {name for node in graph.graph.node for name in node.output}
    kept = {branch: [name for name in tensors if name in node_outputs] for branch, tensors in cuts.items()}
    exposed = [name for tensors in kept.values() for name in tensors]
    rows = run_rows(graph, samples, seconds=SECONDS_A_RUNG, beside=exposed)
    floats = run_rows(plain, samples[: len(rows)], beside=exposed)
    values, expected = (join([*some[0]], [[*row.values()] for row in some]) for some in (rows, floats))
    outputs = compare({value.name: expected[value.name] for value in plain.graph.output}, values)
    outputs |= by_meaning(floats, rows, card)
    ends = {branch: {name: expected[name] for name in names if _comparable(expected[name], values[name])} for branch, names in kept.items()}
    by_branch = {branch: worst(compare(tensors, values)) for branch, tensors in ends.items() if tensors}
    poor = [f"{what} '{name}' has {entry.sqnr_db:.0f} dB" for what, group in (("output", outputs), ("branch", by_branch))
            for name, entry in group.items() if entry.sqnr_db < POOR_SQNR_DB]  # fmt: skip
    note = f"poor after quantizing: {', '.join(poor)}" if poor else ""
    rung = Rung("ONNX to Q/DQ", "ONNX Runtime, float", "ONNX Runtime, Q/DQ", outputs, by_branch, note=note)
    return Meaning({value.name: values[value.name] for value in graph.graph.output}, len(rows), rung)


def _comparable(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors of one name are the same number of numbers: a graph that training exported anew may call another so.

    A mask is none: it holds words for "not this", such as minus infinity.
    """
    return one.size == other.size and not (is_mask(one) or is_mask(other))
