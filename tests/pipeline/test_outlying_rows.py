"""A sensor that says 9999 when it fails, in one of 20 training rows: ranges leave that out, and where they do not, budgets still hold."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm import compress
from edgemm.contracts import plugins
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import Step
from edgemm.contracts.step import Context
from edgemm.contracts.target import Numerics, Target
from edgemm.graph import files, parity
from edgemm.pipeline import stages
from edgemm.pipeline.accuracy_policy import Policy
from edgemm.pipeline.budgets import guard
from edgemm.pipeline.job import start
from edgemm.pipeline.part_quantized import Partial
from edgemm.workshop.steps.quantize import quantize

CARD = """
model: model.onnx
inputs:
  eye: {modality: sensor, shape: [8]}
  imu: {modality: sensor, shape: [6]}
outputs:
  event: {task: classification, labels: [a, b, c, d]}
  alarm: {task: classification, labels: [no, yes]}
"""
ROWS = {"train": 80, "val": 200, "test": 100}
LIMITS = {"event": 3.0, "alarm": 3.0}


def graph(fusion: str) -> onnx.ModelProto:
    """A Gemm and a Relu for each input, joined or weighed by a gate, and two heads."""
    rng, nodes, constants = np.random.default_rng(3), [], []

    def gemm(name: str, source: str, into: str, wide: int, narrow: int) -> None:
        constants.append(numpy_helper.from_array(rng.normal(0, 0.5, (narrow, wide)).astype(np.float32), f"{name}.w"))
        nodes.append(helper.make_node("Gemm", [source, f"{name}.w"], [into], name=name, transB=1))

    for name, wide in (("eye", 8), ("imu", 6)):
        gemm(f"{name}1", name, f"{name}.h", wide, 64)
        nodes.append(helper.make_node("Relu", [f"{name}.h"], [f"{name}.r"], name=f"{name}.relu"))
        gemm(f"{name}2", f"{name}.r", f"{name}.out", 64, 64)
    nodes.append(helper.make_node("Concat", ["eye.out", "imu.out"], ["joined"], name="join", axis=1))
    if fusion == "gated":
        gemm("gate", "joined", "open", 128, 128)
        nodes.append(helper.make_node("Sigmoid", ["open"], ["opened"], name="sigmoid"))
        nodes.append(helper.make_node("Mul", ["joined", "opened"], ["fused"], name="weigh"))
    fused = "fused" if fusion == "gated" else "joined"
    gemm("decide", fused, "event", 128, 4)
    gemm("warn", fused, "alarm", 128, 2)
    shapes = {"eye": ["batch", 8], "imu": ["batch", 6], "event": ["batch", 4], "alarm": ["batch", 2]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    whole = helper.make_graph(nodes, "g", ends[:2], ends[2:], constants)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory) -> Callable[..., Path]:
    """``folder_of("concat", "imu")``: model, card and data whose labels are what the float graph answers; sentinels in those inputs."""

    def folder_of(fusion: str, *broken: str) -> Path:
        folder, rng, model = tmp_path_factory.mktemp("rows"), np.random.default_rng(4), graph(fusion)
        onnx.save(model, folder / "model.onnx")
        (folder / "model.yaml").write_text(CARD)
        for split, rows in ROWS.items():
            feed = {name: rng.normal(size=(rows, width)).astype(np.float32) for name, width in (("eye", 8), ("imu", 6))}
            answers, _ = parity.run_reference(model, [feed])
            truth = {name: values.reshape(rows, -1).argmax(1) for name, values in answers.items()}
            for name in broken if split == "train" else ():
                feed[name][::20, 1] = 9999
            np.savez(folder / f"{split}.npz", **feed, **truth)
        return folder

    return folder_of


def partial(folder: Path, target: str) -> Partial:
    """Quantized with ranges that hold the sentinels."""
    job = start(folder, folder)
    exported = stages.export(job)
    quantized = stages.quantize(job, exported, [Step("quantize", {"calibration_samples": 80, "ranges": "minmax"}, "graph")], target)
    options = plugins.load(Target, target).choices(forbid=frozenset())[0]
    return Partial(job, exported, quantized, Deployment(target, quantized.main, runtime_options=options), (job, exported))


def pairs(artifact) -> list[str]:
    """What is quantized of what is no constant."""
    model = files.load(artifact.main)
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in constants]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_reverting_reaches_the_quantizers_of_the_fusion(folder_of, fusion, target):
    pytest.importorskip(target)
    whole = partial(folder_of(fusion, "imu"), target)
    assert whole.lost()["event"].low > 10
    guarded = guard(whole, Policy(LIMITS))
    assert guarded.met
    assert {"imu", "imu.out", "joined"} & {*pairs(guarded.partial.quantized)} == set()
    assert guarded.partial.lost()["event"].value <= 3


def test_where_nothing_quantized_holds_the_budget_the_float_graph_is_the_result(folder_of):
    whole = partial(folder_of("concat", "imu", "eye"), "onnxruntime")
    guarded = guard(whole, Policy(LIMITS))
    assert guarded.met
    assert guarded.partial.quantized == whole.floats
    assert "everything went back to float" in guarded.notes[0]
    assert "NOTHING IS QUANTIZED" in guarded.notes[1]


def test_a_branch_that_the_recipe_marks_int8_is_not_given_up_for_the_float_graph(folder_of):
    whole = partial(folder_of("concat", "imu", "eye"), "onnxruntime")
    guarded = guard(whole, Policy(LIMITS, locked=["imu"]))
    assert not guarded.met
    assert guarded.partial.quantized != whole.floats


@pytest.mark.parametrize("numerics", ["uint8", "mixed", "int8"])  # of ONNX Runtime, OpenVINO, TensorRT
def test_ranges_leave_sentinels_out_where_val_is_then_answered_better(folder_of, numerics, tmp_path):
    folder = folder_of("concat", "imu")
    job, notes = start(folder, folder), []
    context = Context(job.card, job.dataset, tmp_path, numerics=Numerics(numerics), note=notes.append)
    quantized = quantize(graph("concat"), context, calibration_samples=80)
    assert len(notes) == 1
    assert "'imu', channel 1 of 0 to 5: 4 of 80 values far out (9999)" in notes[0]
    assert "INT8 ranges leave them out, which gains" in notes[0]
    with np.load(folder / "test.npz") as rows:
        answers, _ = parity.run_reference(quantized, [{"eye": rows["eye"], "imu": rows["imu"]}])
        assert (answers["event"].reshape(-1, 4).argmax(1) == rows["event"]).mean() > 0.9


def test_compress_names_the_channel_and_loses_nothing(folder_of, tmp_path):
    folder = folder_of("concat", "imu")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: [{quantize: {calibration_samples: 80}}]\ntargets: {onnxruntime: {threads: 1}}\nfor: size\n")
    report = compress(folder, recipe=recipe, output=tmp_path / "bundle", data=folder).report
    assert any("'imu', channel 1 of 0 to 5: 4 of 80 values far out (9999)" in note for note in report.details.notes)
    lost = [m.value for m in report.measurements if m.name == "accuracy_drop_points" and m.subject == "bundle"]
    assert max(lost) <= 8, "ranges that hold the sentinels cost 40 points and more"


def test_compress_without_a_budget_says_what_was_lost(folder_of, tmp_path):
    folder = folder_of("concat", "imu")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: [{quantize: {calibration_samples: 80, ranges: minmax}}]\ntargets: {onnxruntime: {threads: 1}}\nfor: size\n")
    report = compress(folder, recipe=recipe, output=tmp_path / "bundle", data=folder).report
    assert any("of 'event', and the recipe has no accuracy budget" in note for note in report.details.notes)
