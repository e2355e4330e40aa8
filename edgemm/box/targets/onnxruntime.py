"""ONNX Runtime on the CPU: the reference every other target is held against."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from edgemm.box.targets._errors.vendor import explain
from edgemm.contracts import onnx_file
from edgemm.contracts.runtime_options import check_options
from edgemm.contracts.specs import TensorSpec, check_feed
from edgemm.contracts.target import LayerRan, Numerics, Session, Target
from edgemm.errors import TargetError
from edgemm.store.cache import version
from edgemm.store.instructions import saturates
from edgemm.store.machine import usable_cores

PACKAGES = ("onnxruntime",)
PREFERRED = 2
OPTIONS = {"threads": "int", "optimize": "'all' | 'none'", "precision": "'f32' | 'default'"}
"""Runtime options. ``optimize: none`` switches every graph rewrite off: the parity ladder's reference. The CPU runs floats in f32 only."""

SMALL_INT = ("int8", "uint8")
PROFILED_RUNS = 3  # the last one is told: the first allocates, the second still finds cold caches
MOVES = frozenset(
    {"Reshape", "Transpose", "Concat", "Slice", "Gather", "Shape", "Squeeze", "Unsqueeze", "Cast", "Identity", "Expand", "Split", "Pad"}
    | {"QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "Flatten", "Constant", "ConstantOfShape", "Range"}
)
"""Operators that compute nothing: they say nothing about the precision of the whole."""


class OnnxRuntime(Target):
    """ONNX Runtime, CPU execution provider.

    Args:
        threads: Threads for one operator; None = choose by measuring.
        optimize: ``all`` graph rewrites, or ``none``.
    """

    numerics = Numerics(activations="uint8", floats=("fp32",), weight_bits=(4, 8), narrow_weights=saturates())

    def __init__(self, *, threads: int | None = None, optimize: Literal["all", "none"] = "all") -> None:
        self._fixed = {"threads": threads} if threads else {}
        self._optimize = optimize

    def open(self, artifact: Path, **options: Any) -> Session:
        check_options("onnxruntime", options, OPTIONS)
        return OnnxRuntimeSession(artifact, {"optimize": self._optimize, **self._fixed, **options})

    def choices(self, *, forbid: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        threads = [self._fixed["threads"]] if self._fixed else sorted({1, usable_cores()})
        return [{"threads": count} for count in threads]

    def float_options(self) -> dict[str, Any]:
        return {}  # it computes floats in f32 anyway

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": version("onnxruntime")}


class OnnxRuntimeSession(Session):
    """One opened ONNX file.

    Raises:
        TargetError: ONNX Runtime refuses the file; names op and node.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        face = onnx_file.read(path)
        self._path, self._options = path, options
        self._session: ort.InferenceSession | None = self._make(self._settings())
        self.inputs: list[TensorSpec] = list(face.inputs)
        self.outputs: list[TensorSpec] = list(face.outputs)
        self._names = [spec.name for spec in self.outputs]
        self._seen: dict[str, tuple[int, ...]] = {}
        self._layers: list[LayerRan] | None = None

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen = self._seen
        if len(feed) != len(seen) or any(getattr(feed.get(name), "shape", None) != shape for name, shape in seen.items()):
            check_feed(self.inputs, feed)
            self._seen = {name: array.shape for name, array in feed.items()}
        if self._session is None:
            raise TargetError(f"the session of '{self._path.name}' is closed.", fix="open the model again.")
        try:
            return dict(zip(self._names, self._session.run(self._names, feed), strict=True))
        except Exception as err:
            check_feed(self.inputs, feed)
            raise explain(err, "onnxruntime", self._path, "run") from err

    def layers(self) -> list[LayerRan]:
        """Ran once more with the profiler on, in a session of its own, on zeros of the shapes last seen."""
        if self._layers is None:
            self._layers = self._profile()
        return self._layers

    def precision(self) -> str:
        words = {layer.precision for layer in self.layers() if layer.kind not in MOVES}
        return "+".join(word for word in ("int8", "w8", "w4", "bf16", "f16", "f32", "f64") if word in words) or "f32"

    def close(self) -> None:
        self._session = None

    def _settings(self) -> ort.SessionOptions:
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        if "threads" in self._options:
            settings.intra_op_num_threads = int(self._options["threads"])
        if self._options.get("optimize") == "none":
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return settings

    def _make(self, settings: ort.SessionOptions) -> ort.InferenceSession:
        try:
            return ort.InferenceSession(str(self._path), settings, providers=["CPUExecutionProvider"])
        except Exception as err:  # its exceptions have no common base
            raise explain(err, "onnxruntime", self._path, "open") from err

    def _profile(self) -> list[LayerRan]:
        with tempfile.TemporaryDirectory(prefix="edgemm-") as folder:
            settings = self._settings()
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "layers")
            session = self._make(settings)
            smallest = {spec.name: tuple(1 if isinstance(size, str) else size for size in spec.shape) for spec in self.inputs}
            shapes = self._seen or smallest
            try:
                for _ in range(PROFILED_RUNS):
                    session.run(self._names, {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in self.inputs})
            except Exception as err:
                raise explain(err, "onnxruntime", self._path, "run") from err
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
        return [_layer(event) for event in nodes[-(len(nodes) // PROFILED_RUNS) :]]


def _layer(event: Mapping[str, Any]) -> LayerRan:
    facts = event["args"]
    types = {kind for entry in facts.get("input_type_shape", ()) for kind in entry}
    kind = facts["op_name"]
    precision = _packed(kind, facts) or _precision(kind, types)
    return LayerRan(event["name"].removesuffix("_kernel_time"), kind, precision, kind, float(event["dur"]))


def _packed(kind: str, facts: Mapping[str, Any]) -> str:
    """``w4`` or ``w8`` of an operator on packed weights, by how many of their bytes stand for how many values; "" of others."""
    shapes = [shape for entry in facts.get("input_type_shape", ()) for shape in entry.values()]
    results = [shape for entry in facts.get("output_type_shape", ()) for shape in entry.values()]
    if kind == "MatMulNBits":
        stored, values = prod(shapes[1][1:]), shapes[0][-1]
    elif kind == "GatherBlockQuantized":
        stored, values = shapes[0][-1], results[0][-1]
    else:
        return ""
    return f"w{8 * stored // values}"


def _precision(kind: str, types: set[str]) -> str:
    if types & set(SMALL_INT) and kind not in ("DequantizeLinear", "QuantizeLinear"):
        return "int8"
    for ours, theirs in (("f64", "double"), ("f32", "float"), ("f16", "float16"), ("bf16", "bfloat16")):
        if theirs in types:
            return ours
    return sorted(types)[0] if types else ""
