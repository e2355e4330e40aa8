"""A model open in OpenVINO: compiled once for each set of shapes, its tensors bound; and what its own graph tells of the layers it ran."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino.frontend import FrontEndManager

from edgemm.box.targets._errors.vendor import explain
from edgemm.box.targets._openvino import ir
from edgemm.box.targets._openvino.culprit import find_culprit
from edgemm.contracts import onnx_file
from edgemm.contracts.specs import BATCH, TensorSpec, check_feed
from edgemm.contracts.target import LayerRan, Session
from edgemm.errors import TargetError

SHARE_BYTES = 1 << 19  # below 512 KiB copying into the bound tensor is cheaper than binding the caller's array anew each call
KEPT_BYTES = 1 << 30  # bound on the compiled models kept, one for each set of shapes; each holds its own copy of the weights

FUSED_PRODUCTS = "Subgraph of MatMul"
"""Our word for a just-in-time fusion that holds linear layers in integers. OpenVINO tells the type of its last result as its precision."""

FROM_INTEGERS = "WithoutBiases/DequantizationMultiply"
"""In the name of what OpenVINO puts behind a product of integers to make floats of its sums."""

COMPUTE = (
    "Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell", "MHA",
    "ScaledDotProductAttention", FUSED_PRODUCTS,
)  # fmt: skip
"""Layer types that multiply weights: they name the precision of the whole."""

FOUR_BITS, FLOAT_KERNELS, WEIGHT_WORDS = ("i4", "u4"), ("_f32", "_bf16", "_f16"), ("w8", "w4")
"""A layer whose weights alone are in few bits tells these as its precision, and a kernel of floats."""

NAMELESS = ("No suitable implementations", "could not create a primitive")
"""Words of OpenVINO's refusals that name no node."""

CONSTANT_SIDE = ("Const", "Constant", "Input", "Output", "Parameter", "Result")


@dataclass(frozen=True)
class _Plan:
    """One compiled model for one set of input shapes, its tensors bound."""

    compiled: ov.CompiledModel
    request: Any
    feeds: tuple[tuple[int, str, np.ndarray, np.dtype, tuple[int, ...]], ...]
    results: tuple[tuple[str, np.ndarray | None, int], ...]


class OpenVINOSession(Session):
    """One opened model; a compiled one for each set of input shapes that is served, the latest few kept.

    Raises:
        TargetError: OpenVINO refuses the model; names op and node.
    """

    def __init__(self, path: Path, device: str, options: Mapping[str, Any]) -> None:
        face = ir.read(path) if path.suffix == ".xml" else onnx_file.read(path)
        size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in face.external)
        self._kept = min(32, max(2, KEPT_BYTES // max(1, size)))
        self.inputs: list[TensorSpec] = list(face.inputs)
        self.outputs: list[TensorSpec] = list(face.outputs)
        self._path, self._device, self._settings = path, device, _settings(options)
        self._core, self._is_open = ov.Core(), True
        self._model = self._read_open()
        self._snippets = options.get("snippets", "off" if face.is_quantized or (self._model and _is_quantized(self._model)) else "on")
        self._plans: OrderedDict[tuple[tuple[int, ...], ...], _Plan] = OrderedDict()
        self._plan: _Plan | None = None
        if all(isinstance(size, int) or size == BATCH for spec in self.inputs for size in spec.shape):
            self._plan = self._plan_for(tuple(tuple(1 if size == BATCH else int(size) for size in spec.shape) for spec in self.inputs))

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        plan = self._plan
        if plan is None or not _fits(plan, feed):
            check_feed(self.inputs, feed)
            plan = self._plan = self._plan_for(tuple(feed[spec.name].shape for spec in self.inputs))
        request = plan.request
        shared = []  # OpenVINO does not hold on to memory it was lent: it must live until the call is over
        for index, name, bound, _, _ in plan.feeds:
            array = feed[name]
            if array.nbytes < SHARE_BYTES:
                np.copyto(bound, array)
            else:
                shared.append(_in_place(array))
                request.set_input_tensor(index, ov.Tensor(shared[-1], shared_memory=True))
        try:
            request.infer()
        except Exception as err:
            raise explain(err, "openvino", self._path, "run") from err
        return {
            name: kept.copy() if kept is not None else request.get_output_tensor(index).data.copy() for name, kept, index in plan.results
        }

    def layers(self) -> list[LayerRan]:
        """As the runtime's own graph tells; [] before the first run of a model whose shapes are known only then."""
        if self._plan is None:
            return []
        operations = self._plan.compiled.get_runtime_model().get_ordered_ops()
        layers = [_layer(operation) for operation in operations]
        return [layer for layer in layers if layer.kind not in CONSTANT_SIDE]

    def precision(self) -> str:
        layers = self.layers()
        words = {layer.precision for layer in layers if layer.kind in COMPUTE}
        asked = self._settings.get("INFERENCE_PRECISION_HINT")
        halves = {"bf16"} if asked in ("f32", "bf16") else {"bf16", "f16"}  # f16 beside them only turns inputs and outputs of that type
        words |= {layer.precision for layer in layers} & ({*halves, *WEIGHT_WORDS} if words else {*halves, *WEIGHT_WORDS, "f32"})
        return "+".join(word for word in ("int8", *WEIGHT_WORDS, "bf16", "f16", "f32") if word in words) or "f32"

    def close(self) -> None:
        self._plan, self._model, self._is_open = None, None, False
        self._plans.clear()

    def _read_open(self) -> ov.Model | None:
        """The model with its open sizes; None where OpenVINO reads it only when they are fixed, as it does the STFT of ONNX.

        Raises:
            TargetError: It refuses the model, and nothing of it is open.
        """
        try:
            return self._core.read_model(str(self._path))
        except Exception as err:  # OpenVINO raises RuntimeError and its own kinds without a common base
            if self._path.suffix != ".onnx" or not self._has_open_sizes():
                raise explain(err, "openvino", self._path, "open") from err
            return None

    def _has_open_sizes(self) -> bool:
        return any(isinstance(size, str) for spec in self.inputs for size in spec.shape)

    def _fixed(self, shapes: Mapping[str, list[int]]) -> ov.Model:
        """The model for one set of input shapes."""
        if self._model is None:
            return _read_fixed(self._path, shapes)
        if not self._has_open_sizes():
            return self._model
        model = self._model.clone()
        model.reshape(shapes)
        return model

    def _plan_for(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        if shapes not in self._plans:
            self._plans[shapes] = self._compile(shapes)
            while len(self._plans) > self._kept:
                self._plans.popitem(last=False)
        self._plans.move_to_end(shapes)
        return self._plans[shapes]

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        if not self._is_open:
            raise TargetError(f"the session of '{self._path.name}' is closed.", fix="open the model again.")
        named_shapes = {spec.name: list(shape) for spec, shape in zip(self.inputs, shapes, strict=True)}
        fuses = self._snippets == "on" or (self._snippets == "single" and all(shape[0] == 1 for shape in shapes))
        settings = self._settings | ({} if fuses else {"SNIPPETS_MODE": "DISABLE"})
        model = None
        try:
            model = self._fixed(named_shapes)
            compiled = self._core.compile_model(model, self._device, settings)
        except Exception as err:
            nameless = any(words in str(err) for words in NAMELESS)
            culprit = find_culprit(self._core, model, self._device, settings) if nameless and model is not None else None
            raise explain(err, "openvino", self._path, "compile", culprit=culprit) from err
        return _bind(compiled, self.inputs, self.outputs, shapes)


def _read_fixed(path: Path, shapes: Mapping[str, list[int]]) -> ov.Model:
    """An ONNX file read with the sizes of its inputs known beforehand."""
    reader = FrontEndManager().load_by_framework("onnx")
    graph = reader.load(str(path))
    for name, shape in shapes.items():
        graph.set_partial_shape(graph.get_place_by_tensor_name(name), ov.PartialShape(shape))
    return reader.convert(graph)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """OpenVINO's properties for our options; nothing at all for ``precision: default`` alone."""
    precision = options.get("precision", "f32")
    settings: dict[str, Any] = {} if precision == "default" else {"INFERENCE_PRECISION_HINT": precision}
    if "threads" in options:
        settings["INFERENCE_NUM_THREADS"] = int(options["threads"])
    if "streams" in options:
        settings["NUM_STREAMS"] = int(options["streams"])
    if options.get("profile") == "on":
        settings["PERF_COUNT"] = True
    return settings


def _is_quantized(model: ov.Model) -> bool:
    return any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())


def _bind(compiled: ov.CompiledModel, inputs: list[TensorSpec], outputs: list[TensorSpec], shapes: tuple[tuple[int, ...], ...]) -> _Plan:
    request = compiled.create_infer_request()
    feeds, results = [], []
    index_of = {name: index for index, port in enumerate(compiled.inputs) for name in port.names}
    for spec, shape in zip(inputs, shapes, strict=True):
        index = index_of[spec.name]
        feeds.append((index, spec.name, request.get_input_tensor(index).data, np.dtype(spec.dtype), shape))
    index_of = {name: index for index, port in enumerate(compiled.outputs) for name in port.names}
    for spec in outputs:
        index = index_of[spec.name]
        static = compiled.outputs[index].partial_shape.is_static
        results.append((spec.name, request.get_output_tensor(index).data if static else None, index))
    return _Plan(compiled, request, tuple(feeds), tuple(results))


def _fits(plan: _Plan, feed: Mapping[str, np.ndarray]) -> bool:
    if len(feed) != len(plan.feeds):
        return False
    for _, name, _, dtype, shape in plan.feeds:
        array = feed.get(name)
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            return False
    return True


def _in_place(array: np.ndarray) -> np.ndarray:
    """The array itself, where OpenVINO may read it in place; else a copy."""
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")


def _layer(operation: Any) -> LayerRan:
    facts = operation.get_rt_info()

    def fact(key: str) -> str:
        return facts[key].astype(str) if key in facts else ""

    kernel = fact("primitiveType")
    ran = fact("runtimePrecision")
    precision = "int8" if ran in ("i8", "u8") else ran
    names = fact("originalLayersNames") or operation.get_friendly_name()
    time = fact("execTimeMcs")
    kind = fact("layerType")
    if ran in FOUR_BITS or (kind == "FullyConnected" and precision == "int8" and kernel.endswith(FLOAT_KERNELS)):
        precision = "w4" if ran in FOUR_BITS else "w8"
    if kind == "Subgraph" and FROM_INTEGERS in names:
        kind, precision = FUSED_PRODUCTS, "int8"
    return LayerRan(names, kind, precision, kernel, float(time) if time.replace(".", "", 1).isdigit() else None)
