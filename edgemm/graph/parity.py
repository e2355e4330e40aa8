"""How far two forms of a model are apart, on real samples: the values a graph stands for, and one comparison, a rung of the ladder.

ONNX Runtime with every optimisation off is the reference for what a graph means.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from edgemm.contracts.rung import Difference
from edgemm.contracts.specs import SHUT, show_shape
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
LARGE_BYTES = 64 << 20  # weights of more than that go to ONNX Runtime as a file that it maps: as a message it holds them three times
UNKNOWN = re.compile(r"(?P<op>\w+)\(-?\d+\) is not a registered function/op")
UNBUILT = re.compile(r"Could not find an implementation for (?P<op>\w+)\(\d+\) node with name '(?P<node>[^']*)'")
INSIDE = re.compile(r"[Nn]ode ?(?:\(|with name '|:)(?P<node>[^)'\s]+)")
MOST_WORDS = 300  # characters of its own words


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


def is_mask(value: np.ndarray) -> bool:
    """Whether a tensor's values say what counts and what does not: booleans, or numbers with ``-inf`` or the like among them."""
    return value.dtype == np.bool_ or bool((value <= SHUT).any())


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of ``model`` in which ``tensors`` are graph outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _expose(copy, tensors)
    return copy


def _expose(model: onnx.ModelProto, tensors: Iterable[str]) -> None:
    present = {value.name for value in model.graph.output}
    new = [name for name in dict.fromkeys(tensors) if name not in present]
    model.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name) for name in new])


def reference_session(model: onnx.ModelProto, *, beside: Iterable[str] = ()) -> onnxruntime.InferenceSession:
    """The graph as it stands, in ONNX Runtime with every optimisation off.

    Args:
        beside: Tensors that are outputs too.

    Raises:
        ExportError: ONNX Runtime does not take it; names operator, node and branch where it tells.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow the target beside it
    outputs = len(model.graph.output)
    with tempfile.TemporaryDirectory(prefix="edgemm-") as folder:
        _expose(model, beside)  # and not in a copy, which may not fit
        try:
            large = files.weight_bytes(model) > LARGE_BYTES
            path = Path(folder) / "model.onnx"
            source = str(files.save(model, path, limit_bytes=LARGE_BYTES)) if large else model.SerializeToString()
        finally:
            del model.graph.output[outputs:]
        try:
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as err:  # its exceptions have no common base
            raise not_taken(model, str(err)) from err


def run_reference(
    model: onnx.ModelProto, samples: Sequence[Feed], *, seconds: float = float("inf"), beside: Iterable[str] = ()
) -> tuple[Arrays, int]:
    """Every output over the samples, flat and joined, as ONNX Runtime computes the graph as it stands; and how many samples ran.

    Arguments and errors as in ``run_rows``.
    """
    rows = run_rows(model, samples, seconds=seconds, beside=beside)
    return join([*rows[0]], [[*row.values()] for row in rows]), len(rows)


def run_rows(model: onnx.ModelProto, samples: Sequence[Feed], *, seconds: float = float("inf"), beside: Iterable[str] = ()) -> list[Arrays]:
    """Every output for each sample, as ONNX Runtime computes the graph as it stands.

    Args:
        seconds: Stop early after this long, but not before ``FEWEST`` samples.
        beside: Tensors that are outputs too.

    Raises:
        ExportError: ONNX Runtime does not take the graph, or the graph not the samples.
    """
    session = reference_session(model, beside=beside)
    names = [value.name for value in session.get_outputs()]
    rows, start = list[Arrays](), time.monotonic()
    for sample in samples:
        rows.append(dict(zip(names, asked(session, model, sample), strict=True)))
        if len(rows) >= FEWEST and time.monotonic() - start > seconds:
            break
    return rows


def asked(session: onnxruntime.InferenceSession, model: onnx.ModelProto, sample: Feed) -> list[np.ndarray]:
    """What ``reference_session`` of ``model`` answers to a sample, in the order of its outputs.

    Raises:
        ExportError: The graph does not take the sample.
    """
    names = {value.name for value in session.get_inputs()}
    try:
        return list(map(np.asarray, session.run(None, {name: value for name, value in sample.items() if name in names})))
    except Exception as err:  # its exceptions have no common base
        raise not_taken(model, str(err), sample) from err


def join(names: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> Arrays:
    """One flat array a name, over all samples: their shapes may differ."""
    return {name: np.concatenate([np.asarray(row[column]).reshape(-1) for row in rows]) for column, name in enumerate(names)}


def within(found: Difference) -> bool:
    """Whether an exported tensor equals torch's."""
    return found.max_abs <= EXPORT_TOLERANCE * found.scale + ABSOLUTE_TOLERANCE


def worst(found: Mapping[str, Difference]) -> Difference:
    """The entry with the least SQNR."""
    return min(found.values(), key=lambda entry: entry.sqnr_db)


def not_taken(model: onnx.ModelProto, said: str, sample: Feed | None = None) -> ExportError:
    """The error of a graph that is the reference for everything after it, and cannot be run: at all, or on ``sample``."""
    named = next((match.groupdict() for pattern in (UNKNOWN, UNBUILT, INSIDE) if (match := pattern.search(said))), {})
    node = next((node for node in model.graph.node if _is(node, named)), None)
    where = "" if node is None else f" at node '{node.name or node.output[0]}' ({node.op_type}){_branch(model, node.name)}"
    words = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ ", "", " ".join(said.split()))
    if sample is not None:
        shapes = ", ".join(f"'{name}' {show_shape(array.shape)} {array.dtype}" for name, array in sample.items())
        return ExportError(
            f"ONNX Runtime cannot run the graph{where} on a sample.",
            why=f"{words[:MOST_WORDS].rstrip('.')}; the sample: {shapes}.",
            fix="let the card's inputs have the shapes and types that the graph takes, or change that layer.",
        )
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
