"""The parity ladder: torch -> ONNX -> Q/DQ -> target, on real samples; a rung that breaks is named by branch and node.

ONNX Runtime with every optimisation off is the reference for what a graph means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

Feed = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far a tensor is from its reference.

    Attributes:
        max_abs: Largest absolute difference.
        sqnr_db: Signal power over error power in dB; inf where equal, nan where the reference is all zero or not finite.
        scale: Largest absolute value of the reference.
    """

    max_abs: float
    sqnr_db: float
    scale: float

    @property
    def relative(self) -> float:
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class Rung:
    """One comparison of two forms of the model.

    Attributes:
        outputs: Output -> difference.
        branches: Branch -> difference where it ends.
        culprit: ``{"branch", "node"}`` of the first node that differs, where the rung broke.
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
        return asdict(self)


def compare(reference: Feed, other: Feed) -> dict[str, Difference]:
    """Difference of every tensor of ``reference``; ``other`` must hold the same names and shapes."""
    return {name: difference(value, other[name]) for name, value in reference.items()}


def difference(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Difference of two arrays of one shape; integers and booleans are compared as numbers."""
    a, b = reference.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    error = np.where(same, 0.0, a - b)
    if not np.isfinite(error).all():
        return Difference(float("inf"), float("-inf"), _scale(a))
    signal, noise = float((np.where(np.isfinite(a), a, 0.0) ** 2).sum()), float((error**2).sum())
    sqnr = float("inf") if noise == 0 else 10 * np.log10(signal / noise) if signal else float("-inf")
    return Difference(float(np.abs(error).max(initial=0.0)), float(sqnr), _scale(a))


def _scale(a: np.ndarray) -> float:
    finite = np.abs(a[np.isfinite(a)])
    return float(finite.max(initial=0.0))


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of ``model`` in which ``tensors`` are graph outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


def reference_session(model: onnx.ModelProto | Path, scratch: Path | None = None) -> onnxruntime.InferenceSession:
    """The graph as it stands, in ONNX Runtime with all optimisations off, one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_reference(model: onnx.ModelProto | Path, samples: Sequence[Feed], tensors: Iterable[str] | None = None) -> Outputs:
    """Every output (or ``tensors``) over all samples, stacked along a new first axis."""
    session = reference_session(model)
    names = list(tensors) if tensors is not None else [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    rows = [session.run(names, {key: value for key, value in sample.items() if key in wanted}) for sample in samples]
    return stack(names, rows)


def stack(names: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> Outputs:
    """Join the samples' outputs: one flat array a name, so that samples of differing shape join too."""
    return {name: np.concatenate([np.asarray(row[i]).reshape(-1) for row in rows]) for i, name in enumerate(names)}
