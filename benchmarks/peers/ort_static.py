"""ONNX Runtime's `quantize_static`, as its documentation shows it.

``best``: pre-processed, unsigned activations and signed weights per channel (its advice for x86), and the front-end left in float.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _given import Given

FORMS = ("default", "best")


def compress(given: Given, out: Path, form: str) -> Path:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(given.samples)

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    model, settings = given.model, {}
    if form == "best":
        model = str(out / "prepared.onnx")
        quant_pre_process(given.model, model, skip_symbolic_shape=True, skip_optimization=True)
        excluded = [node.name for node in onnx.load(model).graph.node if node.name.startswith("frontend/")]
        kinds: dict[str, Any] = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        settings = {**kinds, "per_channel": True, "nodes_to_exclude": excluded}
    quantize_static(model, str(out / "model.onnx"), Reader(), **settings)
    return out / "model.onnx"
