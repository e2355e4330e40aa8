"""Bare NNCF on OpenVINO's own model, as its documentation shows it.

Launch: python nncf_openvino.py MODEL.onnx CALIBRATION.npz OUT_FOLDER default|best
"""

from __future__ import annotations

import sys
from pathlib import Path


def compress(model_path: str, samples: list, out: Path, best: bool) -> Path:
    import nncf
    import openvino as ov

    model = ov.Core().read_model(model_path)
    model.reshape({name: array.shape for name, array in samples[0].items()})
    settings = {}
    if best:
        scope = nncf.IgnoredScope(patterns=["frontend/.*"], validate=False)
        settings = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False, "ignored_scope": scope}
    dataset = nncf.Dataset(samples)
    quantized = nncf.quantize(model, dataset, subset_size=len(samples), **settings)
    ov.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


if __name__ == "__main__":
    from _samples import samples

    print(compress(sys.argv[1], samples(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "best"))
