"""Dense models for each target: every convolution in INT8, no branch in float; what decodes is float. Split, Concat, a pyramid inside."""

from pathlib import Path

import onnx
import pytest

pytest.importorskip("openvino")
torch = pytest.importorskip("torch")

from edgemm.box.targets.openvino import OpenVINO  # noqa: E402
from edgemm.contracts import recipe  # noqa: E402
from edgemm.contracts.deployment import Deployment  # noqa: E402
from edgemm.graph import parity, placement  # noqa: E402
from edgemm.graph.back_to_float import int8_layers, quantized_readers  # noqa: E402
from edgemm.graph.float_tail import float_tail  # noqa: E402
from edgemm.pipeline import compiling, short_floats, stages  # noqa: E402
from edgemm.pipeline.job import samples, start  # noqa: E402
from edgemm.pipeline.part_quantized import Partial  # noqa: E402
from edgemm.store.instructions import onednn_instructions  # noqa: E402
from edgemm.workshop.models.onnx_export import export_onnx  # noqa: E402
from tests import dense_models  # noqa: E402

needs_bf16 = pytest.mark.skipif(not onednn_instructions() & {"amx_bf16", "avx512_bf16"}, reason="this processor computes nothing in bf16")
MODELS = {
    "boxes": (lambda: dense_models.Boxes("conv"), ["objects"]),
    "set": (lambda: dense_models.Rows(chosen=True), ["scores", "boxes"]),
    "mask": (lambda: dense_models.Mask(), ["area"]),
}


IN_CI = {("boxes", "openvino"), ("set", "onnxruntime"), ("mask", "tensorrt")}
"""What every form of head goes through by itself is in tests/flow/test_dense_matrix.py."""
OPTIONS = {"openvino": {"threads": 1, "precision": "f32", "snippets": "off"}, "onnxruntime": {"threads": 1}, "tensorrt": {}}
"""One choice each, so that there is little to time."""


def plan(target):
    return {"steps": [{"quantize": {"calibration_samples": 8, "ranges": "minmax"}}], "targets": {target: OPTIONS[target]}, "for": "size"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """``exported(name)``: a job on a model, and its float graph."""
    made = {}

    def once(name):
        if name not in made:
            folder: Path = tmp_path_factory.mktemp(name)
            build, outputs = MODELS[name]
            torch.manual_seed(0)
            module = build()
            if name == "mask":
                module.forward = lambda image, motion, forward=module.forward: {"area": forward(image, motion)["area"]}
            model = dense_models.dense(module, *outputs)
            export_onnx(model, folder / "model.onnx")
            (folder / "model.yaml").write_text(model.card.as_onnx("model.onnx").to_yaml())
            job = start(folder, None)
            made[name] = job, stages.export(job)
        return made[name]

    return once


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=() if (name, target) in IN_CI else pytest.mark.slow)
        for name in MODELS
        for target in ("openvino", "onnxruntime", "tensorrt")
    ],
)
def test_no_branch_is_left_in_float_and_every_layer_before_the_tail_is_int8(exported, name, target):
    job, graph = exported(name)
    made = compiling.compile_for(job, graph, recipe.parse(plan(target), card=job.card), target)
    assert made.kept_float == []
    assert all(rung.ok for rung in made.rungs)
    floats, quantized = onnx.load(graph.main), onnx.load(made.model.main)
    tail = float_tail(floats)
    kept = {*tail, *(placement.unfit(floats) if target == "tensorrt" else ())}  # narrow layers gain nothing there
    convs = {node.name for node in floats.graph.node if node.op_type == "Conv" and node.name not in kept}
    assert len(convs) > 10
    assert convs <= {*int8_layers(quantized)}
    assert not tail & {*quantized_readers(quantized)}, "it reads the sums of the last layers as they are"
    feeds = samples(job, 4)
    expected, _ = parity.run_reference(floats, feeds)
    found, _ = parity.run_reference(quantized, feeds)
    assert {key: entry.sqnr_db for key, entry in parity.compare(expected, found).items() if entry.sqnr_db < 15} == {}


@needs_bf16
def test_beside_bf16_the_decoding_of_boxes_runs_in_f32(exported):
    job, graph = exported("boxes")
    quantized = stages.quantize(job, graph, recipe.parse(plan("openvino"), card=job.card).graph_steps(), "openvino")
    with OpenVINO().open(quantized.main, precision="bf16", threads=1) as session:
        layers = session.layers()
    assert "bf16" in {layer.precision for layer in layers}
    assert [layer.precision for layer in layers if layer.kind == "Softmax"] == ["f32"]
    assert [layer.precision for layer in layers if layer.kind == "Reduce"] == ["f32"]
    assert {layer.precision for layer in layers if layer.kind == "Convolution"} == {"int8"}, "the mean over bins is none any more"


@needs_bf16
def test_bf16_is_not_taken_for_a_set_unless_rows_show_that_its_layers_bear_it(exported):
    job, graph = exported("set")
    quantized = stages.quantize(job, graph, recipe.parse(plan("openvino"), card=job.card).graph_steps(), "openvino")
    partial = Partial(job, graph, quantized, Deployment("openvino", quantized.main, {}), (job, graph))
    assert short_floats.unproved(partial, {"precision": "bf16"}) == "no rows show that the layers behind the choice of rows bear bf16."
    assert short_floats.unproved(partial, {"precision": "f32"}) == ""
    job, graph = exported("boxes")
    partial = Partial(job, graph, graph, Deployment("openvino", graph.main, {}), (job, graph))
    assert short_floats.unproved(partial, {"precision": "bf16"}) == ""


@pytest.mark.parametrize("name", ["boxes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("set", "mask"))])
def test_openvino_runs_them_in_int8_kernels(exported, name):
    job, graph = exported(name)
    made = compiling.compile_for(job, graph, recipe.parse(plan("openvino"), card=job.card), "openvino")
    with made.deployment.open() as session:
        precisions = [layer.precision for layer in session.layers() if layer.kind == "Convolution"]
    assert set(precisions) == {"int8"}
    assert len(precisions) > 20
