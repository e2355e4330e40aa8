"""How far two forms of a model are apart, on real samples: the values a graph stands for, and one comparison, a rung of the ladder.

ONNX Runtime with every optimisation off is the reference for what a graph means.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgemm.errors import EdgemmError, ExportError
from edgemm.graph import files
from edgemm.graph.branches import find_branches

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
UNKNOWN = re.compile(r"(?P<op>\w+)\(-?\d+\) is not a registered function/op")
UNBUILT = re.compile(r"Could not find an implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'")
INSIDE = re.compile(r"[Nn]ode ?(?:\(|with name '|:)(?P<node>[^)'\s]+)")
MOST_WORDS = 300  # characters of its own words


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
            "outputs": {name: deviation.to_dict() for name, deviation in self.outputs.items()},
            "branches": {name: deviation.to_dict() for name, deviation in self.branches.items()},
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
            raise not_taken(model, str(err)) from err


def run_reference(model: onnx.ModelProto, samples: Sequence[Feed], *, seconds: float = float("inf")) -> tuple[Arrays, int]:
    """Every output over the samples, flat and joined, as ONNX Runtime computes the graph as it stands; and how many samples ran.

    Args:
        seconds: Stop early after this long, but not before ``FEWEST`` samples.
    """
    session = reference_session(model)
    names = [value.name for value in session.get_outputs()]
    input_names = {value.name for value in session.get_inputs()}
    rows, start = [], time.monotonic()
    for sample in samples:
        rows.append(session.run(names, {key: value for key, value in sample.items() if key in input_names}))
        if len(rows) >= FEWEST and time.monotonic() - start > seconds:
            break
    return join(names, rows), len(rows)


def join(names: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> Arrays:
    """One flat array a name, over all samples: their shapes may differ."""
    return {name: np.concatenate([np.asarray(row[column]).reshape(-1) for row in rows]) for column, name in enumerate(names)}


def within(found: Difference) -> bool:
    """Whether an exported tensor equals torch's."""
    return found.max_abs <= EXPORT_TOLERANCE * found.scale + ABSOLUTE_TOLERANCE


def worst(found: Mapping[str, Difference]) -> Difference:
    """The entry with the least SQNR."""
    return min(found.values(), key=lambda entry: entry.sqnr_db)


def not_taken(model: onnx.ModelProto, said: str) -> ExportError:
    """The error of a graph that is the reference for everything after it, and cannot be run."""
    named = next((match.groupdict() for pattern in (UNKNOWN, UNBUILT, INSIDE) if (match := pattern.search(said))), {})
    node = next((node for node in model.graph.node if _is(node, named)), None)
    where = "" if node is None else f" at node '{node.name}' ({node.op_type}){_branch(model, node.name)}"
    words = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ ", "", " ".join(said.split()))
    return ExportError(
        f"ONNX Runtime does not take the graph{where}.",
        why=words[:MOST_WORDS],
        fix="every command runs the graph there first, to know what it means: write that layer with ONNX's own operators (opset 18).",
    )


def _is(node: onnx.NodeProto, named: dict[str, str]) -> bool:
    return node.name == named["node"] if "node" in named else node.op_type == named.get("op")


def _branch(model: onnx.ModelProto, name: str) -> str:
    try:
        branch = find_branches(model).of_node.get(name)
    except EdgemmError:  # a graph that has none
        return ""
    return f" of branch '{branch}'" if branch else ""
