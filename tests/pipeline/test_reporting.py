"""What the last stage says beside its numbers: titles, limits of regressions, and forms that gained no speed."""

from pathlib import Path

import pytest

from edgemm.box.measuring.candidate import Candidate
from edgemm.contracts import recipe as recipes
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.report import Measurement, judge
from edgemm.contracts.timing_parts import Ratio
from edgemm.pipeline.reporting import Form, _limits, _not_faster, title
from edgemm.store.artifact import Artifact


def recipe(precision=None, budget=1.0):
    steps = [{"quantize": {} if precision is None else {"precision": precision}}]
    return recipes.parse({"steps": steps, "targets": ["openvino"], "budgets": {"accuracy_drop_points": budget}})


def pair(verdict, value, *, baseline="openvino default", disturbed=False):
    return [Ratio("openvino int8", baseline, value, verdict=verdict, disturbed=disturbed)]


DEPLOYMENT = Deployment("openvino", Path("model.onnx"))
INT8 = Form(Candidate("openvino int8", "bundle", DEPLOYMENT), Artifact(Path("model.onnx")), "openvino default")


@pytest.mark.parametrize(("path", "name"), [("/a/digits/model.yaml", "digits"), ("/a/digits/porch-small.yaml", "porch-small")])
def test_a_report_is_called_after_its_card_unless_that_is_model_yaml(path, name):
    assert title(Path(path)) == name
    assert title(None) == "model"


def test_a_form_that_gained_no_speed_comes_with_advice():
    (slower,) = _not_faster(INT8, pair("slower", 1.25), recipe())
    assert "is slower than what openvino runs by itself (0.80x its speed): write `precision: auto`" in slower
    assert slower.endswith("or keep it for its size.")
    (same,) = _not_faster(INT8, pair("no difference shown", 0.99), recipe())
    assert "is not shown to be faster than" in same
    for precision in ("auto", {"default": "auto", "head": "fp32"}):
        (chosen,) = _not_faster(INT8, pair("slower", 1.25), recipe(precision))
        assert "precision: auto" not in chosen


def test_there_is_no_advice_where_it_is_faster_or_nothing_is_known():
    assert _not_faster(INT8, pair("faster", 0.5), recipe()) == []
    assert _not_faster(INT8, pair("slower", 2.0, disturbed=True), recipe()) == []
    assert _not_faster(INT8, pair("slower", 2.0, baseline="openvino float"), recipe()) == []


def test_the_points_of_a_regression_are_told_in_its_unit():
    lost = Measurement("accuracy_drop_points", 0.35, "dB", target="openvino", output="level", per_point=0.0146)
    error = Measurement("mae", 0.4, "dB", target="openvino", output="level")
    said = _limits(judge({"accuracy_drop_points": 1.0}, [lost], ["openvino"], ["level"]), [lost, error], recipe())
    assert len(said) == 1
    assert "its limit of 1 points is 0.0146 dB of mean absolute error" in said[0]
    assert _limits([], [lost], recipe(budget={"level": 1.0})) == []
