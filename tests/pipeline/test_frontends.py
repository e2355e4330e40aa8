"""Forms of a front-end: the fastest on the target goes into its graph, proved to compute the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.contracts.deployment import Deployment
from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Report
from edgemm.contracts.report_parts import Details
from edgemm.contracts.timing_parts import FormTried, FrontendChoice
from edgemm.errors import ParityError
from edgemm.pipeline import stages
from edgemm.pipeline.frontends import Fitted, choose, fit, is_clear
from edgemm.pipeline.job import start
from edgemm.report.page import render
from edgemm.store.artifact import Artifact

pytest.importorskip("openvino")

CARD = """
model: model.onnx
inputs:
  sound: {modality: audio, rate_hz: 16000, seconds: 1.0, features: {log_mel: {window_ms: 64, hop_ms: 16, mels: 8}}}
outputs:
  y: {task: embedding}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [59, 4], np.random.default_rng(0).normal(0, 0.1, 59 * 4).astype(np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["sound", "w"], ["m"], "mix"),
            helper.make_node("ReduceMean", ["m"], ["y"], "mean", axes=[1], keepdims=0),
        ],
        "hears",
        [helper.make_tensor_value_info("sound", TensorProto.FLOAT, ["batch", 8, 59])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx")
    (folder / "model.yaml").write_text(CARD)
    return start(folder / "model.yaml", None)


def test_a_form_is_taken_for_its_speed_and_among_equals_for_its_size():
    small, large = FormTried(10, Interval(1.0)), FormTried(900, Interval(0.99))
    assert choose({"dense": large, "factorized": small}) == "factorized"
    assert choose({"dense": FormTried(900, Interval(0.5)), "factorized": small}) == "dense"
    assert choose({"dense": FormTried(900, error="crashed"), "factorized": small}) == "factorized"
    fast = {"dense": FormTried(900, Interval(0.5)), "factorized": small}
    assert [choose(fast, most) for most in (1000, 900, 899, 0)] == ["dense", "dense", "factorized", "factorized"]
    assert choose({"dense": FormTried(900, error="crashed"), "factorized": FormTried(10, error="crashed")}) == "dense"


def test_processes_are_started_again_only_where_forms_are_close():
    fast, slow, near = (FormTried(10, Interval(ms)) for ms in (1.0, 1.5, 1.1))
    assert is_clear({"dense": slow, "factorized": fast})
    assert not is_clear({"dense": near, "factorized": fast})
    assert is_clear({"dense": FormTried(900, error="crashed"), "factorized": fast})


def test_every_form_is_timed_on_the_target_and_the_chosen_graph_computes_the_same(job, empty_cache):
    exported = stages.export(job)
    fitted = fit(job, Deployment("openvino", exported.main), forbid=frozenset({"bf16", "fp16"}))
    (row,) = fitted.table
    assert (row.input, row.target, set(row.forms)) == ("sound", "openvino", {"dense", "factorized"})
    assert all(form.ms and form.precision == "f32" for form in row.forms.values()), "in the types that may run"
    formed = Fitted({"sound": "factorized"}).apply(job, exported)
    assert formed.main.stat().st_size < exported.main.stat().st_size / 10
    assert Fitted().apply(job, exported) == exported
    feed = next(iter(job.dataset.batches("val", 1))).inputs
    answers = []
    for graph in (exported, formed):
        with Deployment("openvino", graph.main).open(precision="f32") as session:
            answers.append(session.run(feed)["y"])
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-4 * np.abs(answers[0]).max())


def test_a_graph_that_came_in_another_form_gets_the_chosen_one_and_a_rewritten_front_end_stays(job, empty_cache, tmp_path):
    exported = stages.export(job)
    formed = Fitted({"sound": "factorized"}).apply(job, exported)
    back = Fitted({"sound": "dense"}).apply(job, formed)
    assert back.main.read_bytes() == exported.main.read_bytes()
    rewritten = onnx.load(exported.main)
    rewritten.graph.node[0].input[0], rewritten.graph.node[0].name = "sound", f"{rewritten.graph.node[0].name}_fused"
    onnx.save(rewritten, tmp_path / "model.onnx")
    kept = Fitted({"sound": "factorized"}).apply(job, Artifact(tmp_path / "model.onnx", {}))
    assert onnx.load(kept.main) == rewritten


def test_a_form_that_computes_something_else_is_refused(job, empty_cache, monkeypatch):
    from edgemm.data.modalities.audio import Audio

    exported, forms = stages.export(job), Audio.frontend_forms
    short = {"dense": None, "factorized": -1}  # no logarithm
    monkeypatch.setattr(Audio, "frontend_forms", lambda self: {name: ops[: short[name]] for name, ops in forms(self).items()})
    with pytest.raises(ParityError, match="sound: factorized"):
        Fitted({"sound": "factorized"}).apply(job, exported)


def test_the_page_shows_what_each_form_took():
    choice = FrontendChoice(
        "sound",
        "factorized",
        {"dense": FormTried(4_200_000, Interval(2.6, 2.5, 2.7)), "factorized": FormTried(170_000, Interval(0.6))},
        "openvino",
    )
    page = render(Report({}, details=Details(frontends=(choice,))))
    assert "Front-ends by measurement" in page
    assert "2.6" in page
