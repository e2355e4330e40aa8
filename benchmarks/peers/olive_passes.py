"""Microsoft Olive: static quantization by its ONNX Runtime pass, and by its OpenVINO passes.

``best``: what each pass documents beyond its defaults: for ONNX Runtime unsigned activations and signed weights per channel, for OpenVINO
static shapes and the mixed preset; the front-end left in float by both.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _given import Given

FORMS = ("onnxruntime default", "onnxruntime best", "openvino default", "openvino best")


def compress(given: Given, out: Path, form: str) -> Path:
    import onnx
    from olive import run
    from olive.data.registry import Registry

    class Rows:
        def __len__(self) -> int:
            return len(given.samples)

        def __getitem__(self, row: int) -> tuple[dict[str, Any], int]:
            return {name: array[row] for name, array in given.stacked.items()}, 0

    Registry.register_dataset("rows")(lambda **_: Rows())
    runtime, best = form.split()[0], form.endswith("best")
    graph = onnx.load(given.model).graph
    if runtime == "onnxruntime":
        quantize: dict[str, Any] = {"type": "OnnxStaticQuantization", "data_config": "calibration"}
        if best:
            excluded = [node.name for node in graph.node if node.name.startswith("frontend/")]
            quantize |= {"activation_type": "uint8", "weight_type": "int8", "per_channel": True, "nodes_to_exclude": excluded}
        passes = {"quantize": quantize}
    else:
        convert: dict[str, Any] = {"type": "OpenVINOConversion"}
        quantize = {"type": "OpenVINOQuantization", "data_config": "calibration"}
        if best:
            convert["input"] = [list(given.stacked[entry.name][:1].shape) for entry in graph.input]
            quantize |= {"preset": "MIXED", "ignored_scope": ["frontend/.*"], "ignored_scope_type": "patterns"}
        passes = {"convert": convert, "quantize": quantize}
    provider = "OpenVINOExecutionProvider" if runtime == "openvino" else "CPUExecutionProvider"
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": given.model},
            "systems": {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": [provider]}]}},
            "data_configs": [{"name": "calibration", "load_dataset_config": {"type": "rows"}}],
            "passes": passes,
            "target": "here",
            "evaluate_input_model": False,
            "cache_dir": str(out / "cache"),
            "output_dir": str(out / "made"),
        }
    )
    return next((out / "made").rglob("*.xml" if runtime == "openvino" else "*.onnx"))
