"""One stage after the other by hand: export, quantize, compile, benchmark."""

from pathlib import Path

import onnx
import pytest

from edgemm import benchmark, compile, export, quantize
from edgemm.contracts import card_file as cards
from edgemm.errors import EdgemmError, TargetError
from edgemm.graph.frontend import form_of
from edgemm.pipeline import frontends
from edgemm.progress import Progress

RECIPE = "steps: [{quantize: {calibration_samples: 16}}]\ntargets: {openvino: {}, onnxruntime: {}}\nfor: size\nbudgets: {}\n"


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


def form_in(path: Path, own_model: Path) -> str | None:
    """Of the sound's front-end."""
    return form_of(onnx.load(path), cards.load(own_model), "audio")


def test_an_exported_graph_is_not_given_a_second_front_end(exported: Path, quantized: list[Path]):
    def casts(path: Path) -> int:
        return sum(node.name.startswith("frontend/image") and node.op_type == "Cast" for node in onnx.load(path).graph.node)

    assert casts(exported) == casts(quantized[0]) == 1


def test_quantize_writes_one_smaller_graph_a_target(exported: Path, quantized: list[Path]):
    assert [path.parent.name for path in quantized] == ["openvino", "onnxruntime"]
    assert all(path.stat().st_size < exported.stat().st_size for path in quantized)


def test_export_and_quantize_keep_the_front_end_as_it_is(own_model: Path, exported: Path, quantized: list[Path]):
    assert [form_in(path, own_model) for path in (exported, *quantized)] == ["dense"] * 3


def test_compile_takes_the_fastest_front_end_keeps_the_weights_in_int8_and_tells_its_options(
    own_model: Path, quantized: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(frontends, "choose", lambda forms, most=0.0: "factorized")
    progress, said = Progress(), list[str]()
    progress.note = said.append  # type: ignore[method-assign]
    made = compile(quantized[0], target="openvino", output=tmp_path / "c", progress=progress)
    assert form_in(made.main, own_model) == "factorized"
    assert any("the front-end of 'audio' is factorized on openvino, the fastest of dense" in note for note in said)
    before, after = (
        {tensor.name: tensor for tensor in onnx.load(path).graph.initializer if not tensor.name.startswith("frontend/audio/")}
        for path in (quantized[0], made.main)
    )
    assert before == after
    assert "fingerprint" in (tmp_path / "c" / "options.json").read_text()


def test_what_opens_no_graph_is_told_before_anything_is_done(quantized: list[Path], tmp_path: Path):
    with pytest.raises(TargetError, match="torch is not a target to compile for"):
        compile(quantized[0], target="torch", output=tmp_path / "c")


def test_compile_of_an_onnx_file_needs_a_target_and_a_place(quantized: list[Path]):
    with pytest.raises(EdgemmError, match="needs --target"):
        compile(quantized[0])


def test_float_and_int8_can_be_measured_side_by_side(exported: Path, quantized: list[Path]):
    report = benchmark([exported, quantized[0]], target="openvino", rounds=5, calls=3, launches=0)
    assert len({m.candidate for m in report.measurements if m.name == "latency_p50_ms"}) >= 2
