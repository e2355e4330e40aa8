"""`edgemm compile` and `edgemm inspect` on a file that another tool quantized in a way that OpenVINO computes wrongly."""

import numpy as np
import pytest
from onnx import helper

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

from edgemm import compile, inspect  # noqa: E402
from edgemm.box.targets.openvino import OpenVINO  # noqa: E402
from edgemm.graph import parity  # noqa: E402
from edgemm.store.instructions import onednn_instructions  # noqa: E402
from tests.onnx_models import model as onnx_model  # noqa: E402


@pytest.fixture
def foreign(tmp_path):
    """Two layers on one map, int8 pairs, their maps joined, a layer behind, as NNCF and others write it (7 bits, for any processor)."""
    random = np.random.default_rng(0)
    constants = {"scale": np.float32(0.03), "zero": np.int8(0), "steps": np.float32(1 / 350)}
    nodes = []

    def pair(name):
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"], f"{name}/quantize"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"], f"{name}/dequantize"))
        return f"{name}_d"

    def layer(name, source, channels):
        constants[f"{name}_w"] = random.integers(-63, 64, (8, channels, 1, 1)).astype(np.int8)
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_w", "steps", "zero"], [f"{name}_f"], f"{name}/weights"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_f"], [name], name))

    source = pair("x")
    layer("left", source, 8)
    layer("right", source, 8)
    nodes.append(helper.make_node("Concat", [pair("left"), pair("right")], ["both"], "join", axis=1))
    layer("y", "both", 16)
    onnx.save(onnx_model(nodes, {"x": [1, 8, 10, 10]}, {"y": [1, 8, 10, 10]}, constants), tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def error(path, meant):
    x = np.random.default_rng(1).normal(size=(1, 8, 10, 10)).astype(np.float32)
    (expected,) = parity.reference_session(onnx.load(meant)).run(None, {"x": x})
    with OpenVINO().open(path, precision="f32") as session:
        return float(np.abs(session.run({"x": x})["y"] - expected).mean() / np.abs(expected).mean())


def test_compiling_it_for_openvino_writes_what_is_computed_rightly(foreign, tmp_path, empty_cache):
    if "amx_int8" not in onednn_instructions():
        assert error(foreign, foreign) > 0.1
    made = compile(foreign, target="openvino", output=tmp_path / "compiled")
    assert error(made.main, foreign) < 0.01


def test_inspecting_it_names_the_fault_and_who_mends_it(foreign, empty_cache):
    (note,) = [note for note in inspect(foreign).notes if "wrongly" in note]
    assert note.startswith(
        "'foreign.onnx' was quantized by another tool: without AMX OpenVINO 2026.4 computes 2 of its quantizers wrongly, silently"
    )
    assert "'left/quantize'" in note
    assert "compress, quantize and compile write the same numbers in uint8 for it" in note
