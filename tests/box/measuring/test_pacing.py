"""Calls at a pace and as many as possible: what they show, whole and in parts."""

import json

import numpy as np
import pytest

from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.pacing import paced_measurements, parse_pace, time_paced
from edgemm.box.measuring.throughput import throughputs
from edgemm.contracts import card_file as cards
from edgemm.contracts.deployment import Deployment
from edgemm.errors import MeasureError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CARD = cards.parse(
    {
        "model": "model.onnx",
        "inputs": {
            "seen": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 8]},
            "heard": {"modality": "sensor", "shape": [4], "rate_hz": 10},
        },
        "outputs": {"kind": {"task": "tensor"}},
    }
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A model in parts: twice ``seen``, ``heard`` plus one, and their sum's concatenation."""
    from tests.onnx_models import model as onnx_model

    helper = onnx.helper
    folder = tmp_path_factory.mktemp("parts")

    def save(name, nodes, inputs, outputs, weights):
        faces = [{key: ["batch", width] for key, width in side.items()} for side in (inputs, outputs)]
        onnx.save(onnx_model(nodes, *faces, {key: np.float32(value) for key, value in weights.items()}), folder / f"{name}.onnx")

    save("seen", [helper.make_node("Mul", ["seen", "two"], ["a"])], {"seen": 8}, {"a": 8}, {"two": 2})
    save("heard", [helper.make_node("Add", ["heard", "one"], ["b"])], {"heard": 4}, {"b": 4}, {"one": 1})
    save("rest", [helper.make_node("Concat", ["a", "b"], ["kind"], axis=1)], {"a": 8, "b": 4}, {"kind": 12}, {})
    record = {
        "branches": {"seen": "seen.onnx", "heard": "heard.onnx"},
        "rest": "rest.onnx",
        "cuts": {"seen": ["a"], "heard": ["b"]},
        "macs": 0,
    }
    (folder / "split.json").write_text(json.dumps(record))
    return folder / "split.json"


def reference(artifact):
    return Candidate("one", "bundle", Deployment("onnxruntime", artifact, runtime_options={"threads": 1}))


def test_a_pace_is_read_for_all_inputs_or_for_each():
    assert parse_pace("5hz", CARD) == {"seen": 5.0, "heard": 5.0}
    assert parse_pace("seen=10hz,sensor=0.5 Hz", CARD) == {"seen": 10.0, "heard": 0.5}
    assert parse_pace("seen=10hz", CARD) == {"seen": 10.0, "heard": 10.0}


@pytest.mark.parametrize("words", ["5", "hz", "seen=", "seen=fast", "0hz", "10hz,"])
def test_a_pace_that_is_none_is_refused(words):
    with pytest.raises(MeasureError, match=r"the pace '.*' cannot be read(?s:.)*write 5hz, or image=10hz,audio=1hz"):
        parse_pace(words, CARD)


def test_a_pace_of_an_input_that_is_not_there_names_the_nearest():
    with pytest.raises(MeasureError, match=r"the pace names 'sensors', which is no input(?s:.)*did you mean 'sensor'"):
        parse_pace("sensors=5hz", CARD)


def test_paced_calls_keep_their_rate_and_show_how_late_they_were(layer, feed):
    found = time_paced([reference(layer)], feed, {"x": 50.0}, seconds=1.0)["one"]
    assert found.how == "whole"
    steps = sum(len(round_["latency_ms"]) + round_["dropped"] for round_ in found.rounds)
    assert steps == 4 * 12
    assert sum(round_["seconds"] for round_ in found.rounds) >= 48 / 50
    measured = {m.name: m for m in paced_measurements(found)}
    assert {"paced_p50_ms", "paced_p95_ms", "paced_p99_ms", "paced_max_ms", "paced_jitter_ms", "paced_late_p95_ms", "paced_dropped"} <= {
        *measured
    }
    assert measured["paced_p50_ms"].value <= measured["paced_p99_ms"].value <= measured["paced_max_ms"].value
    assert measured["paced_cpu_ms"].value > 0


def test_each_branch_of_a_model_in_parts_runs_at_its_own_rate(layer, parts):
    feed = {"seen": np.ones((1, 8), np.float32), "heard": np.ones((1, 4), np.float32)}
    found = time_paced([reference(layer)], feed, {"seen": 40.0, "heard": 10.0}, parts={"one": parts}, seconds=0.5)["one"]
    assert (found.how, found.error) == ("split", None)
    assert len(found.rounds) == 4


def test_the_branch_of_an_input_that_is_not_new_does_not_run(parts):
    from edgemm.box.bundle import parts as splits
    from edgemm.box.measuring.load import stepper
    from edgemm.box.targets.onnxruntime import OnnxRuntime

    feed = {"seen": np.ones((1, 8), np.float32), "heard": np.ones((1, 4), np.float32)}
    with splits.Parts(splits.read(parts.parent), OnnxRuntime().open) as opened:
        step = stepper(opened, feed)
        feed["seen"], feed["heard"] = 3 * feed["seen"], 3 * feed["heard"]
        np.testing.assert_array_equal(step(["heard"])["kind"], [[2.0] * 8 + [4.0] * 4])
        np.testing.assert_array_equal(step(["seen"])["kind"], [[6.0] * 8 + [4.0] * 4])


def test_a_candidate_that_cannot_be_paced_says_why_and_the_rest_is(layer, feed, tmp_path):
    gone = Candidate("gone", "bundle", Deployment("onnxruntime", tmp_path / "gone.onnx"))
    found = time_paced([reference(layer), gone], feed, {"x": 50.0}, seconds=0.2)
    assert found["one"].error is None
    assert "gone.onnx" in str(found["gone"].error)


def test_throughput_counts_samples_of_every_batch_and_stream(layer, feed):
    rows = throughputs([reference(layer)], feed, batches=(1, 4), streams=(1, 2), seconds=0.1)
    assert [(row.batch, row.streams) for row in sorted(rows, key=lambda row: (row.batch, row.streams))] == [
        (1, 1), (1, 2), (4, 1), (4, 2),
    ]  # fmt: skip
    assert all(row.error is None and row.low <= row.per_s <= row.high for row in rows)


def test_a_batch_that_a_graph_does_not_take_has_a_reason_instead_of_a_figure(layer, tmp_path, feed):
    model = onnx.load(layer)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    one, four = sorted(throughputs([reference(tmp_path / "fixed.onnx")], feed, batches=(1, 4), seconds=0.1), key=lambda row: row.batch)
    assert one.error is None
    assert "x" in four.error
    assert four.per_s is None
