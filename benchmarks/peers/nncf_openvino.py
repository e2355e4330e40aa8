"""Bare NNCF on OpenVINO's own model, as its documentation shows it.

``best``: mixed preset, the accurate bias correction, and the front-end left in float; a model with attention is called a transformer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _given import Given

FORMS = ("default", "best")


def compress(given: Given, out: Path, form: str) -> Path:
    import nncf
    import openvino as ov

    model = ov.Core().read_model(given.model)
    model.reshape({name: array.shape for name, array in given.samples[0].items()})
    settings: dict[str, Any] = {}
    if form == "best":
        scope = nncf.IgnoredScope(patterns=["frontend/.*"], validate=False)
        settings = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False, "ignored_scope": scope}
        if any(operation.get_type_name() == "Softmax" for operation in model.get_ops()):
            settings["model_type"] = nncf.ModelType.TRANSFORMER
    quantized = nncf.quantize(model, nncf.Dataset(given.samples), subset_size=len(given.samples), **settings)
    ov.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"
