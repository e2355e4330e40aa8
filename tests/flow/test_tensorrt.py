"""One bundle for an Intel box and a Jetson, made on a machine without a GPU; and what TensorRT's numerics cost on real data."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgemm import compress, inspect, verify
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.targets.tensorrt import TensorRT

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
without_gpu = pytest.mark.skipif(not TensorRT().cannot_run(), reason="shows what a machine without a GPU does")
RECIPE = """
steps:
  - quantize: {method: ptq, calibration_samples: 24}
targets: {openvino: {}, tensorrt: {}}
for: size
budgets: {accuracy_drop_points: 100, latency_p95_ms: 1000}
"""


@pytest.fixture(scope="module")
def built(own_model: Path, porch: Path, tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("both")
    (place / "both.yaml").write_text(RECIPE)
    return compress(own_model, recipe=place / "both.yaml", data=porch, output=place / "bundle")


@without_gpu
def test_a_bundle_for_both_verifies_and_says_what_was_not_measured(built):
    checked = verify(built.bundle)
    assert checked.ok
    assert any("golden samples in int8+f16; computed by ONNX Runtime" in check.text for check in checked.checks)
    told = built.report
    assert told.find("accuracy", subject="bundle", target="tensorrt", output="event")
    assert told.find("latency_p50_ms", subject="bundle", target="openvino")
    assert not told.find("latency_p50_ms", subject="bundle", target="tensorrt")
    verdicts = {(verdict.name, verdict.target): verdict.verdict for verdict in told.budgets}
    assert verdicts["latency_p95_ms", "tensorrt"] == "unknown"
    assert verdicts["accuracy_drop_points", "tensorrt"] == "met"
    assert any(note.startswith("tensorrt: ") and "Accuracy was measured in ONNX Runtime" in note for note in told.details.notes)


@without_gpu
def test_it_brings_the_half_form_along_and_no_stand_in(built):
    folder = built.bundle / "targets" / "tensorrt"
    assert {path.name for path in folder.iterdir()} >= {"model.int8-f16.onnx", "model.onnx", "options.json"}
    options = json.loads((folder / "options.json").read_text())
    assert options["safe"] == options["tuned"] == {"precision": "f16", "int8": "on"}


@without_gpu
def test_its_boards_times_are_estimated_before_the_board_is_at_hand(built):
    found = inspect(built.bundle, target="tensorrt", device="orin-nano-8gb-super")
    assert found.estimate is not None
    assert "int8 is bound by" in str(found.estimate)
    assert found.total.latency_share is None
    assert found.notes[0].startswith("tensorrt cannot run here: no NVIDIA GPU")
    timed = inspect(built.bundle, device="orin-nano-8gb-super")
    assert (timed.target, timed.total.latency_share) == ("openvino", 1.0)


def test_each_target_has_quantizers_of_its_own(built):
    def zero_types(target: str) -> set[str]:
        model = onnx.load(built.bundle / "targets" / target / "model.onnx")
        found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        return {found[node.input[2]].dtype.name for node in model.graph.node if node.op_type == "QuantizeLinear"}

    assert zero_types("tensorrt") == {"int8"}
    assert "uint8" in zero_types("openvino")


def test_the_plan_for_a_card_elsewhere_is_built_from_the_bundle(built, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    from edgemm.verbs.compile import compile as verb

    made = verb(built.bundle, target="tensorrt", aot="SM86,SM120", output=tmp_path / "ahead")
    assert made.provenance["form"] == "int8+f16"
    assert made.main.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "pack", "options"), [("digits", "avdigits", ("--spoiled",)), ("easyvqa", "easyvqa", ())])
def test_tensorrts_numerics_lose_at_most_a_point_on_real_data(name, pack, options, unpacked, tmp_path, empty_cache):
    """Trained briefly on a part of the data; the model and its Q/DQ graph answer the same rows, so the loss is a paired one."""
    from edgemm.contracts.answers import Answers
    from edgemm.contracts.recipe import load as load_recipe
    from edgemm.pipeline import answers as answering
    from edgemm.pipeline import stages
    from edgemm.pipeline.job import start
    from edgemm.verbs.train import train

    data = unpacked(pack, *options, limit=2000)
    train(name, data=data, output=tmp_path / "run", epochs=6)
    job = start(tmp_path / "run" / "model.yaml", data)
    exported = stages.export(job)
    quantized = stages.quantize(job, exported, load_recipe("tensorrt-int8", card=job.card).graph_steps(), "tensorrt")
    told = Answers.read(answering.reference(job, exported).main)
    output = next(iter(job.card.outputs))
    with TensorRT().open(quantized.main, precision="f16", stand_in="onnxruntime") as session:
        answers = [session.run(batch.inputs)[output] for batch in job.dataset.batches("test", 1)]
    truth = told.truth[output]
    before = (told.predictions[output].argmax(1) == truth).mean()
    after = (np.concatenate(answers).argmax(1) == truth).mean()
    assert before > 0.3, "it learned something"
    assert before - after <= 0.01


def test_the_bundle_opens_as_any_other(built):
    opened = open_bundle(built.bundle)
    assert opened.targets() == ["openvino", "tensorrt"]


@without_gpu
def test_every_form_answers_the_golden_samples_and_a_wrong_one_is_not_taken(built, empty_cache):
    from dataclasses import replace

    from edgemm.verbs.compile import _objection

    opened = open_bundle(built.bundle)
    golden = opened.golden()
    deployment = opened.deployment("tensorrt")
    objection = _objection(deployment, golden, opened.card)
    for precision in ("f16", "f32"):
        for int8 in ("on", "off"):
            assert objection({"precision": precision, "int8": int8, "stand_in": "onnxruntime"}) == "", (precision, int8)
    wrong = {"tensorrt": {name: value + 10 * np.abs(value).max() for name, value in golden.outputs["tensorrt"].items()}}
    answered_wrongly = _objection(deployment, replace(golden, outputs=wrong), opened.card)
    assert "are off for 'event'" in answered_wrongly({"stand_in": "onnxruntime"})
    assert _objection(deployment, replace(golden, outputs={}), opened.card) is None
