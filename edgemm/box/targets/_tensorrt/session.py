"""One engine at work: tensors bound by name, copied through pinned memory (or read in place where memory is shared), as a CUDA graph.

Not run on hardware so far: no NVIDIA GPU was at hand when it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.targets._tensorrt.advice import refused
from edgemm.box.targets._tensorrt.api import Api, Messages, logger
from edgemm.box.targets._tensorrt.cuda import D2H, H2D, Cuda, view
from edgemm.contracts.specs import BATCH, TensorSpec, check_feed
from edgemm.contracts.target import LayerRan, Session
from edgemm.errors import SpecMismatch, TargetError

DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
"""TensorRT's names -> numpy's; asked for by name, their numbers are the binding's business."""
WORDS = {"FP32": "f32", "Float": "f32", "FP16": "f16", "Half": "f16", "BF16": "bf16", "BFloat16": "bf16", "Int8": "int8", "INT8": "int8"}
"""Types in the engine's own description -> our words."""


@dataclass
class _Buffer:
    """One tensor's memory: an array the processor writes or reads, and where the GPU finds it (the same memory, where it is shared)."""

    name: str
    array: np.ndarray
    host: int
    device: int
    shared: bool

    @property
    def size(self) -> int:
        return self.array.nbytes


class TensorRTSession(Session):
    """One opened engine.

    Args:
        face: Inputs and outputs as the ONNX file names them; None = as the engine does.
        graph: Whether the work of one call is launched as one CUDA graph, captured at the first call of each set of shapes.
        profiled: Whether layers are timed.

    Raises:
        TargetError: TensorRT does not take the plan, or memory is short.
    """

    def __init__(
        self, api: Api, cuda: Cuda, plan: bytes, path: Path, face: tuple[list[TensorSpec], list[TensorSpec]] | None, *, precision: str,
        graph: bool = True, profiled: bool = False,
    ) -> None:  # fmt: skip
        self._api, self._cuda, self._path, self._precision = api, cuda, path, precision
        self._said = Messages()
        self._log = logger(api.trt, self._said)  # TensorRT keeps no reference of its own
        self._runtime = api.trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise refused(path, self._said.errors(), doing="cannot load")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise refused(path, [*self._said.errors(), "out of memory"], doing="cannot make a context for")
        self._wants = {name: np.dtype(DTYPES[self._engine.get_tensor_dtype(name).name]) for name in self._tensors()}
        self.inputs, self.outputs = face or (self._specs("INPUT"), self._specs("OUTPUT"))
        self._stream = cuda.stream()
        self._shares = cuda.shares_memory()
        self._capture = graph and not profiled
        self._buffers: dict[str, _Buffer] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._graph = 0
        self._times = _timer(api.trt) if profiled else None
        if self._times is not None:
            self._context.profiler = self._times
            self._context.enqueue_emits_profile = True

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self._fits(feed):
            check_feed(self.inputs, feed)
            self._bind({name: array.shape for name, array in feed.items()})
        for name, array in feed.items():
            np.copyto(self._buffers[name].array, array, casting="same_kind")
        if self._graph:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronise(self._stream)
        return {spec.name: self._buffers[spec.name].array.astype(spec.dtype, copy=True) for spec in self.outputs}

    def _fits(self, feed: Mapping[str, np.ndarray]) -> bool:
        """Whether the last call's shapes and types come again."""
        if not self._shapes or len(feed) != len(self._shapes):
            return False
        for spec in self.inputs:
            array = feed.get(spec.name)
            if not isinstance(array, np.ndarray) or array.shape != self._shapes[spec.name] or array.dtype != spec.dtype:
                return False
        return True

    def layers(self) -> list[LayerRan]:
        """As the engine describes itself; with times where it was opened with ``profile: on`` and has run."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        text = inspector.get_engine_information(self._api.trt.LayerInformationFormat.JSON)
        return described(text, self._times.us if self._times is not None else {})

    def precision(self) -> str:
        """What layers say; where the engine does not tell (TensorRT-RTX holds one node), the types of its strongly typed network."""
        words = {layer.precision for layer in self.layers()}
        precisions = [word for word in ("int8", "f16", "bf16", "f32") if word in words]
        silent = not precisions or ("int8" in self._precision.split("+") and "int8" not in precisions)
        return self._precision if silent else "+".join(precisions)

    def close(self) -> None:
        if self._graph:
            self._cuda.destroy_graph(self._graph)
            self._graph = 0
        for buffer in self._buffers.values():
            self._cuda.free_host(buffer.host)
            if not buffer.shared:
                self._cuda.free(buffer.device)
        self._buffers = {}
        if self._stream:
            self._cuda.destroy_stream(self._stream)
            self._stream = 0
        self._context = self._engine = self._runtime = None

    def _tensors(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _specs(self, mode: str) -> list[TensorSpec]:
        """The face of an engine without its ONNX file; open axes are the batch where they come first."""
        specs = []
        for name in self._tensors():
            if self._engine.get_tensor_mode(name).name == mode:
                sizes = enumerate(self._engine.get_tensor_shape(name))
                shape = tuple(int(size) if size >= 0 else BATCH if axis == 0 else f"axis_{axis}" for axis, size in sizes)
                specs.append(TensorSpec(name, self._wants[name].name, shape))
        return specs

    def _bind(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set shapes, give every tensor its memory, and capture one call."""
        if self._context is None:
            raise TargetError(f"the session of '{self._path.name}' is closed.", fix="open the model again.")
        if self._graph:
            self._cuda.destroy_graph(self._graph)
            self._graph = 0
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise SpecMismatch(
                    f"input '{name}' of shape {shape} is outside the engine's profile.",
                    why="TensorRT builds for stated sizes.",
                    fix="set targets.tensorrt.profile, such as {batch: [1, 1, 8]}, and compile again.",
                )
        for name in self._tensors():
            shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise TargetError(
                    f"tensor '{name}' of '{self._path.name}' has a size that depends on values: {shape}.",
                    why="its memory must be known before the call.",
                    fix="give the model's outputs fixed shapes, such as all scores in place of those above a threshold.",
                )
            self._give(name, shape)
        self._shapes = dict(shapes)
        self._enqueue()  # a first plain call: TensorRT sets up what a capture may not
        self._cuda.synchronise(self._stream)
        if self._capture:
            self._record()

    def _record(self) -> None:
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            finally:
                self._graph = self._cuda.end_capture(self._stream)
        except TargetError:  # shapes that depend on values cannot be captured; the plain way computes the same
            self._graph, self._capture = 0, False

    def _give(self, name: str, shape: tuple[int, ...]) -> None:
        dtype = self._wants[name]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        old = self._buffers.pop(name, None)
        if old is not None:
            self._cuda.free_host(old.host)
            if not old.shared:
                self._cuda.free(old.device)
        host = self._cuda.allocate_host(size, mapped=self._shares)
        device = self._cuda.device_pointer(host) if self._shares else self._cuda.allocate(size)
        self._buffers[name] = _Buffer(name, view(host, shape, dtype), host, device, self._shares)
        self._context.set_tensor_address(name, device)

    def _enqueue(self) -> None:
        """Copies in, kernels, copies out, on the stream; nothing waits."""
        names = {spec.name for spec in self.inputs}
        for buffer in self._buffers.values():
            if buffer.name in names and not buffer.shared:
                self._cuda.copy(buffer.device, buffer.host, buffer.size, H2D, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise refused(self._path, self._said.errors(), doing="failed while running")
        for buffer in self._buffers.values():
            if buffer.name not in names and not buffer.shared:
                self._cuda.copy(buffer.host, buffer.device, buffer.size, D2H, self._stream)


def described(text: str, times_us: Mapping[str, float]) -> list[LayerRan]:
    """Layers from the inspector's JSON; [] where a plan was built without details."""
    try:
        rows = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    return [_layer(row, times_us) for row in rows if isinstance(row, dict)]


def _layer(row: Mapping[str, Any], times_us: Mapping[str, float]) -> LayerRan:
    name, kind = str(row.get("Name", "")), str(row.get("LayerType", ""))
    formats = [str(entry.get("Format/Datatype", entry.get("Datatype", ""))) for key in ("Inputs", "Outputs") for entry in row.get(key, ())]
    precisions = {ours for text in formats for theirs, ours in WORDS.items() if theirs in text.split() or theirs == text}
    precision = next((word for word in ("int8", "f16", "bf16", "f32") if word in precisions), "")
    return LayerRan(name, kind, precision, str(row.get("TacticName", "")), times_us.get(name))


def _timer(trt: Any) -> Any:
    class Timer(trt.IProfiler):  # type: ignore[misc]
        """Time of each layer, averaged over the calls so far."""

        def __init__(self) -> None:
            super().__init__()
            self.total: dict[str, tuple[float, int]] = {}

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            before, count = self.total.get(name, (0.0, 0))
            self.total[name] = (before + milliseconds * 1e3, count + 1)

        @property
        def us(self) -> dict[str, float]:
            return {name: total / count for name, (total, count) in self.total.items()}

    return Timer()
