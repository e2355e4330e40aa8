"""NVIDIA Model Optimizer's PTQ of ONNX graphs, on the CPU.

``best``: the rest stays in f32 (by default it becomes f16, which CPUs emulate), and the front-end is left alone. Its calibration (entropy)
and its numerics (signed, symmetric, for TensorRT) are its defaults in both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _given import Given

FORMS = ("default", "best")


def compress(given: Given, out: Path, form: str) -> Path:
    import modelopt.onnx.quantization as moq

    settings: dict[str, Any] = {"quantize_mode": "int8", "calibration_eps": ["cpu"]}
    if form == "best":
        settings |= {"high_precision_dtype": "fp32", "nodes_to_exclude": ["frontend/.*"]}
    moq.quantize(given.model, calibration_data=given.stacked, output_path=str(out / "model.onnx"), **settings)
    return out / "model.onnx"
