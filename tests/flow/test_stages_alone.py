"""One stage after the other by hand: export, quantize, compile, benchmark."""

from pathlib import Path

import onnx
import pytest

from edgemm import benchmark, compile, export, quantize
from edgemm.errors import EdgemmError

RECIPE = "steps: [{quantize: {calibration_samples: 16}}]\ntargets: {openvino: {}, onnxruntime: {}}\nbudgets: {}\n"


@pytest.fixture(scope="module")
def exported(own_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(own_model, output=tmp_path_factory.mktemp("float")).main


@pytest.fixture(scope="module")
def quantized(exported: Path, porch: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "recipe.yaml").write_text(RECIPE)
    return quantize(exported, recipe=folder / "recipe.yaml", data=porch, output=folder)


def test_export_leaves_a_card_that_names_the_graph(exported: Path):
    assert "model: model.onnx" in (exported.parent / "model.yaml").read_text()
    assert (exported.parent / "parity.json").is_file()


def test_an_exported_graph_is_not_given_a_second_front_end(exported: Path, quantized: list[Path]):
    def casts(path: Path) -> int:
        return sum(node.name.startswith("frontend/image") and node.op_type == "Cast" for node in onnx.load(path).graph.node)

    assert casts(exported) == casts(quantized[0]) == 1


def test_quantize_writes_one_smaller_graph_a_target(exported: Path, quantized: list[Path]):
    assert [path.parent.name for path in quantized] == ["openvino", "onnxruntime"]
    assert all(path.stat().st_size < exported.stat().st_size for path in quantized)


def test_compile_keeps_the_weights_in_int8_and_tells_its_options(quantized: list[Path], tmp_path: Path):
    made = compile(quantized[0], target="openvino", output=tmp_path / "c")
    assert made.main.read_bytes() == quantized[0].read_bytes()
    assert "fingerprint" in (tmp_path / "c" / "options.json").read_text()


def test_compile_of_an_onnx_file_needs_a_target_and_a_place(quantized: list[Path]):
    with pytest.raises(EdgemmError, match="needs --target"):
        compile(quantized[0])


def test_float_and_int8_can_be_measured_side_by_side(exported: Path, quantized: list[Path]):
    report = benchmark([exported, quantized[0]], target="openvino", rounds=5, calls=3, launches=0)
    assert len({m.candidate for m in report.measurements if m.name == "latency_p50_ms"}) >= 2
