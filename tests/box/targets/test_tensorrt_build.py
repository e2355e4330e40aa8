"""Real builds by TensorRT-RTX for cards that are not here: parser, types, shapes and API; nothing about speed or INT8 kernels."""

import re

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")

from edgemm.box.targets._tensorrt import api  # noqa: E402
from edgemm.box.targets._tensorrt import build as building  # noqa: E402
from edgemm.box.targets._tensorrt.build import BuildSettings, build  # noqa: E402
from edgemm.box.targets.tensorrt import TensorRT  # noqa: E402
from edgemm.errors import Mistakes, QuantizeError, TargetError  # noqa: E402  (the packages may be absent)

helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
CARDS = ["SM86", "SM120"]

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")
pytest.importorskip("openvino")

from tests.flow.cells import MATRIX, make  # noqa: E402  (torch may be absent)

ROWS = list(MATRIX)
FAST = ("camera and microphone, scalar gate", "changes over four steps")  # a GRU and Conv1d; bytes that are turned before they are cast


@pytest.mark.parametrize("name", [pytest.param(row, marks=() if row in FAST else pytest.mark.slow) for row in ROWS])
def test_a_combination_quantized_for_tensorrt_builds_in_every_form(name, tmp_path, empty_cache):
    from edgemm.contracts.step import Context
    from edgemm.data import dataset
    from edgemm.graph import checks, parity
    from edgemm.workshop.models.onnx_export import export_onnx
    from edgemm.workshop.steps.quantize import quantize

    model = make(name)
    card = model.card
    exported = onnx.load(export_onnx(model, tmp_path / "float.onnx"))
    context = Context(card=card, dataset=None, scratch=tmp_path, target="tensorrt", numerics=TensorRT.numerics)
    made = quantize(exported, context, calibration_samples=16)
    assert checks.check(made, card) == []
    onnx.save(made, tmp_path / "model.onnx")
    for number, options in enumerate([{"precision": "f16"}, {"precision": "f32"}, {"precision": "f16", "int8": "off"}]):
        place = tmp_path / str(number)
        place.mkdir()
        artifact = TensorRT().ahead(tmp_path / "model.onnx", place, CARDS, **options)
        assert artifact.main.stat().st_size > 1000
    feeds = [batch.inputs for batch in dataset.synthetic(card, seed=9).calibration(4)]
    expected, _ = parity.run_reference(exported, feeds)
    with TensorRT().open(tmp_path / "model.onnx", precision="f16", stand_in="onnxruntime") as session:
        rows = [[session.run(feed)[output] for output in card.outputs] for feed in feeds]
    found = parity.compare({output: expected[output] for output in card.outputs}, parity.join(list(card.outputs), rows))
    assert min(entry.sqnr_db for entry in found.values()) > 20


def test_trained_heads_that_are_left_in_float_build_too(tmp_path, conv, empty_cache):
    artifact = TensorRT().ahead(conv, tmp_path, ["SM86"], precision="f16")
    assert artifact.provenance["form"] == "f16"


def test_both_forms_of_a_sounds_front_end_build(tmp_path, empty_cache):
    from edgemm.contracts import card_file as cards
    from edgemm.graph.frontend import alone

    sound = {"modality": "audio", "rate_hz": 16000, "seconds": 2.0, "features": {"log_mel": {"window_ms": 64, "hop_ms": 16}}}
    card = cards.parse({"factory": "a:b", "inputs": {"sound": sound}, "outputs": {"y": {"task": "embedding"}}})
    sizes = {}
    for form in ("dense", "factorized"):
        onnx.save(alone(card, "sound", form), tmp_path / f"{form}.onnx")
        (tmp_path / form).mkdir()
        sizes[form] = TensorRT().ahead(tmp_path / f"{form}.onnx", tmp_path / form, CARDS).main.stat().st_size
    assert sizes["factorized"] < sizes["dense"] / 4


def test_an_operator_that_the_parser_lacks_is_named_with_op_node_and_branch(write, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "fine"),
        helper.make_node("Mystery", ["r"], ["y"], "odd_one", domain="elsewhere"),
    ]
    path = write(tmp_path / "odd.onnx", nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}, {})
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    onnx.save(model, path)
    settings = BuildSettings(capabilities=("SM86",))
    with pytest.raises(TargetError) as caught:
        build(api.require(), path, settings, branch_of={"odd_one": "image"}.get)
    assert re.search(r"tensorrt refuses 'odd.onnx' at node 'odd_one' \(Mystery\) of branch 'image'", str(caught.value))
    assert "export with opset 18" in caught.value.fix


def test_an_operator_of_onnx_that_the_parser_lacks_is_named_and_not_called_false(write, tmp_path, empty_cache):
    nodes = [helper.make_node("Relu", ["x"], ["r"], "fine"), helper.make_node("Det", ["r"], ["y"], "volume")]
    path = write(tmp_path / "det.onnx", nodes, {"x": (FLOAT, [1, 4, 4])}, {"y": (FLOAT, [1])}, {})
    with pytest.raises(TargetError, match=r"refuses 'model.onnx' at node 'volume' \(Det\) of branch 'x'") as caught:
        TensorRT().ahead(path, tmp_path, ["SM86"])
    assert caught.value.why == "no importer registered for Det: its parser has no such operator."
    assert "write that layer with operators it has" in caught.value.fix


def test_what_the_builder_refuses_is_an_error_in_its_words(write, tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["rows", "s", "z"], ["y"], "late", axis=0)]
    nodes.insert(0, helper.make_node("Gather", ["table", "x"], ["rows"], "lookup"))
    weights = {"table": np.ones((20, 8), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    path = write(tmp_path / "late.onnx", nodes, {"x": (onnx.TensorProto.INT64, [1, 4])}, {"y": (FLOAT, [1, 4, 8])}, weights)
    with pytest.raises((QuantizeError, Mistakes), match="reads integers that 'lookup'"):
        TensorRT().ahead(path, tmp_path, ["SM86"])
    with pytest.raises(TargetError, match=r"tensorrt (cannot build|refuses) 'late.onnx'"):  # what it says without edgemm's own check
        build(api.require(), path, BuildSettings(capabilities=("SM86",)))


def test_uint8_pairs_are_refused_by_the_builders_own_warning_too(quantized):
    """On a box without the onnx package ``graph.checks`` cannot look; the parser's warning is then what stops a clipped engine."""
    with pytest.raises(TargetError, match=r"would compute 'model.onnx' wrongly: it holds uint8 quantizers"):
        build(api.require(), quantized, BuildSettings(capabilities=("SM86",)))


def test_an_open_length_needs_a_profile_and_builds_with_one(words, tmp_path, empty_cache):
    with pytest.raises(TargetError, match=r"input 'ids' .*has the open axis 'length', and no profile says its sizes"):
        TensorRT().ahead(words, tmp_path, ["SM86"])
    assert TensorRT(profile={"length": [1, 12, 16]}).ahead(words, tmp_path, ["SM86"]).main.is_file()


def test_a_build_that_takes_too_long_is_stopped(conv, tmp_path, empty_cache):
    with pytest.raises(TargetError, match=r"did not finish 'model.onnx' in 0 s"):
        TensorRT(build_timeout_s=0).ahead(conv, tmp_path, ["SM86"])


def test_progress_is_told_by_phases(conv):
    told = []
    build(api.require(), conv, BuildSettings(capabilities=("SM86",)), tell=lambda text, done: told.append((text, done)))
    assert told
    assert all(text and 0 < done <= 1 for text, done in told)


@pytest.mark.parametrize(("name", "words"), [("SM87", "Jetson boards .* build their engines themselves"), ("SM1", "it knows SM75")])
def test_a_card_that_rtx_does_not_know_is_refused(name, words, conv, tmp_path, empty_cache):
    with pytest.raises(TargetError, match=f"builds nothing for {name}") as caught:
        TensorRT().ahead(conv, tmp_path, [name])
    assert re.search(words, caught.value.why)


@pytest.mark.filterwarnings("ignore:.*no-ops in TensorRT-RTX")
def test_timings_of_kernels_are_begun_anew_when_the_file_is_not_one(tmp_path):
    trt = api.require().trt
    said = api.Messages()
    builder = trt.Builder(api.logger(trt, said))
    place = tmp_path / "timings.bin"
    for content in (None, b"not a timing cache"):
        if content is not None:
            place.write_bytes(content)
        config = builder.create_builder_config()
        assert building._load_timings(config, place) is not None
        assert building._load_timings(config, None) is None


def test_building_ahead_by_the_command_writes_a_plan_with_its_record(conv, tmp_path, empty_cache):
    from edgemm.verbs.compile import compile as verb

    made = verb(conv, target="tensorrt", output=tmp_path / "out", aot="sm86, SM120")
    assert made.provenance["ahead"] == ["SM86", "SM120"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["engine.json", "model.plan"]
    with pytest.raises(TargetError, match="target 'onnxruntime' builds nothing ahead of time"):
        verb(conv, target="onnxruntime", output=tmp_path / "out", aot="SM86")


@pytest.mark.skipif(not TensorRT().cannot_run(), reason="shows what a machine without a GPU does")
def test_compiling_here_without_a_gpu_says_how_else(conv, tmp_path, empty_cache):
    from edgemm.verbs.compile import compile as verb

    with pytest.raises(TargetError, match="tensorrt cannot be compiled for on this machine") as caught:
        verb(conv, target="tensorrt", output=tmp_path / "out")
    assert "--aot SM86" in caught.value.fix
