"""The parity ladder: torch -> ONNX -> Q/DQ -> target, on real samples; a rung that breaks is named by branch and node.

ONNX Runtime with every optimisation off is the reference for what a graph means.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from edgemm.contracts.card import Card
from edgemm.contracts.target import Session
from edgemm.errors import ParityError
from edgemm.graph import files
from edgemm.graph.branches import Branches, find_branches
from edgemm.graph.untaken import untaken

if TYPE_CHECKING:
    from edgemm.workshop.models.fused import FusedModel

Feed = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]

EXPORT_TOLERANCE = 1e-3
"""Largest error of an exported output, as a share of its scale. Summing float32 in another order costs 1e-6 to 1e-5, the logarithm of a
quiet spectrogram up to 1e-4; a wrong pad, gate order or reshape costs 1e-2 and more."""
ABSOLUTE_TOLERANCE = 1e-6  # for outputs that are all but zero
TARGET_SQNR_DB = 20.0
"""A target may flip roundings (30 dB and more) or sum in bf16 (above 30 dB too); a layer computed wrongly is seldom above 10 dB."""
POOR_SQNR_DB = 10.0  # below this a quantized tensor is noise for a third of its amplitude
SECONDS_A_RUNG = 10.0  # a large model is compared on fewer samples, at least FEWEST
FEWEST = 2


@dataclass(frozen=True)
class Difference:
    """How far a tensor is from its reference.

    Attributes:
        max_abs: Largest absolute difference; inf where one side is not finite and the other is.
        sqnr_db: Signal power over error power in dB; inf where equal.
        scale: Largest absolute value of the reference.
    """

    max_abs: float
    sqnr_db: float
    scale: float

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``scale``."""
        return self.max_abs / self.scale if self.scale else self.max_abs

    def to_dict(self) -> dict[str, float | None]:
        """Plain values; None stands for an infinite ratio (JSON has no infinity)."""
        return {key: value if np.isfinite(value) else None for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Rung:
    """One comparison of two forms of the model.

    Attributes:
        outputs: Output -> difference.
        branches: Branch -> difference of the worst tensor it ends in.
        culprit: ``{"branch", "node"}`` where the first difference arises, if the rung broke and it could be found.
        note: What a reader should know, in words.
    """

    name: str
    reference: str
    candidate: str
    outputs: Mapping[str, Difference]
    branches: Mapping[str, Difference] = field(default_factory=dict)
    ok: bool = True
    culprit: Mapping[str, str] | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "reference": self.reference,
            "candidate": self.candidate,
            "outputs": {name: found.to_dict() for name, found in self.outputs.items()},
            "branches": {name: found.to_dict() for name, found in self.branches.items()},
            "ok": self.ok,
            "culprit": dict(self.culprit) if self.culprit else None,
            "note": self.note,
        }


def compare(reference: Feed, other: Feed) -> dict[str, Difference]:
    """Difference of every tensor of ``reference``; ``other`` must hold the same names and shapes."""
    return {name: difference(value, other[name]) for name, value in reference.items()}


def difference(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Difference of two arrays of one shape; integers and booleans are compared as numbers, equal infinities are equal."""
    a, b = reference.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, a - b)
    finite = a[np.isfinite(a)]
    scale = float(np.abs(finite).max(initial=0.0))
    if not np.isfinite(error).all():
        return Difference(float("inf"), float("-inf"), scale)
    signal, noise = float((finite**2).sum()), float((error**2).sum())
    sqnr = float("inf") if noise == 0 else float("-inf") if signal == 0 else 10 * float(np.log10(signal / noise))
    return Difference(float(np.abs(error).max(initial=0.0)), sqnr, scale)


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of ``model`` in which ``tensors`` are graph outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


def reference_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The graph as it stands, in ONNX Runtime with every optimisation off.

    Raises:
        ExportError: ONNX Runtime does not take it; names operator, node and branch where it tells.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the target beside it
    with tempfile.TemporaryDirectory(prefix="edgemm-") as folder:
        large = files.weight_bytes(model) > files.LIMIT_BYTES
        source = str(files.save(model, Path(folder) / "model.onnx")) if large else model.SerializeToString()
        try:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as err:  # its exceptions have no common base
            raise untaken(model, str(err)) from err


def run_reference(model: onnx.ModelProto, samples: Sequence[Feed], *, seconds: float = float("inf")) -> tuple[Arrays, int]:
    """Every output over the samples, flat and joined, as ONNX Runtime computes the graph as it stands; and how many samples ran.

    Args:
        seconds: Stop early after this long, but not before ``FEWEST`` samples.
    """
    session = reference_session(model)
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    rows, start = [], time.monotonic()
    for sample in samples:
        rows.append(session.run(names, {key: value for key, value in sample.items() if key in wanted}))
        if len(rows) >= FEWEST and time.monotonic() - start > seconds:
            break
    return join(names, rows), len(rows)


def join(names: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> Arrays:
    """One flat array a name, over all samples: their shapes may differ."""
    return {name: np.concatenate([np.asarray(row[place]).reshape(-1) for row in rows]) for place, name in enumerate(names)}


def check_export(model: FusedModel, onnx_path: Path, samples: Sequence[Feed]) -> Rung:
    """The rung torch -> ONNX: each output on each sample, and on all samples as one batch.

    Raises:
        ParityError: An output differs; names it, the error, and the branch and node where the difference arises.
    """
    from edgemm.workshop.models import values

    names = list(model.card.outputs)
    graph = files.load(onnx_path)
    feeds = [*samples, *_one_batch(samples)]
    reference = join(names, [list(values.outputs(model, feed).values()) for feed in feeds])
    found, _ = run_reference(graph, feeds)
    rung = Rung("torch to ONNX", "torch", "ONNX Runtime", compare(reference, {name: found[name] for name in names}))
    broken = [name for name, entry in rung.outputs.items() if not within(entry)]
    if not broken:
        return rung
    from edgemm.graph.culprits import in_export

    branch, node = next((place for feed in feeds if any(place := in_export(model, graph, feed))), ("", ""))
    worst = rung.outputs[broken[0]]
    raise ParityError(
        f"output '{broken[0]}' of the exported graph differs from torch by {worst.max_abs:.3g} (its scale is {worst.scale:.3g}).",
        why=f"the difference arises in branch '{branch}' at node '{node}'." if node else "no single node could be named.",
        fix="write that layer with simpler torch operations; please report the model, the exporter writes it wrongly.",
    )


def within(found: Difference) -> bool:
    """Whether an exported tensor equals torch's."""
    return found.max_abs <= EXPORT_TOLERANCE * found.scale + ABSOLUTE_TOLERANCE


def _one_batch(samples: Sequence[Feed]) -> list[Feed]:
    """All samples as one feed, where their shapes allow it: a graph that works for one sample may mix several."""
    shapes = {tuple((name, value.shape) for name, value in sample.items()) for sample in samples}
    if len(samples) < 2 or len(shapes) > 1 or any(value.shape[:1] != (1,) for value in samples[0].values()):
        return []
    return [{name: np.concatenate([sample[name] for sample in samples]) for name in samples[0]}]


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
        from edgemm.graph.culprits import in_target

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
    wanted = {spec.name for spec in session.inputs}
    answers = session.run({key: value for key, value in sample.items() if key in wanted})
    return [answers[name] for name in names]


def _quantizing(
    plain: onnx.ModelProto, graph: onnx.ModelProto, branches: Branches, samples: Sequence[Feed], card: Card | None
) -> tuple[Rung, Arrays, int]:
    """The rung ONNX -> Q/DQ, with the Q/DQ graph's values and the number of samples that ran."""
    cuts = find_branches(plain, card).cuts
    made = {name for node in graph.graph.node for name in node.output}
    kept = {branch: [name for name in tensors if name in made] for branch, tensors in cuts.items()}
    exposed = [name for tensors in kept.values() for name in tensors]
    found, count = run_reference(with_outputs(graph, exposed), samples, seconds=SECONDS_A_RUNG)
    expected, _ = run_reference(with_outputs(plain, exposed), samples[:count])
    outputs = compare({value.name: expected[value.name] for value in plain.graph.output}, found)
    by_branch = {branch: worst(compare({name: expected[name] for name in names}, found)) for branch, names in kept.items() if names}
    poor = [f"{what} '{name}' has {entry.sqnr_db:.0f} dB" for what, group in (("output", outputs), ("branch", by_branch))
            for name, entry in group.items() if entry.sqnr_db < POOR_SQNR_DB]  # fmt: skip
    note = f"poor after quantizing: {', '.join(poor)}" if poor else ""
    return Rung("ONNX to Q/DQ", "ONNX Runtime, float", "ONNX Runtime, Q/DQ", outputs, by_branch, note=note), found, count


def worst(found: Mapping[str, Difference]) -> Difference:
    """The entry with the least SQNR."""
    return min(found.values(), key=lambda entry: entry.sqnr_db)
