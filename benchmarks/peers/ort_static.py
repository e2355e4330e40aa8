"""ONNX Runtime's `quantize_static`, as its documentation shows it.

Launch: python ort_static.py MODEL.onnx CALIBRATION.npz OUT_FOLDER default|best
"""

from __future__ import annotations

import sys
from pathlib import Path


def compress(model_path: str, samples: list, out: Path, best: bool) -> Path:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(samples)

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    settings = {}
    if best:
        quant_pre_process(model_path, str(out / "prepared.onnx"), skip_symbolic_shape=True, skip_optimization=True)
        model_path = str(out / "prepared.onnx")
        excluded = [node.name for node in onnx.load(model_path).graph.node if node.name.startswith("frontend/")]
        settings = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "nodes_to_exclude": excluded}
    quantize_static(model_path, str(out / "model.onnx"), Reader(), **settings)
    return out / "model.onnx"


if __name__ == "__main__":
    from _samples import samples

    print(compress(sys.argv[1], samples(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "best"))
