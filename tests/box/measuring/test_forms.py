"""What a compressed form is held against: the runtime left alone, whatever a recipe fixes."""

import pytest

from edgemm.box.measuring.forms import baselines, compressed
from edgemm.contracts.deployment import Deployment

pytest.importorskip("openvino")


def test_baselines_are_the_float_graph_in_f32_and_as_the_runtime_runs_it_by_itself(layer):
    floats, default = baselines(Deployment("openvino", layer))
    assert (floats.name, floats.subject, floats.precision_asked) == ("openvino float", "float", "f32")
    assert dict(floats.deployment.runtime_options) == {"precision": "f32"}
    assert (default.name, default.subject, default.precision_asked) == ("openvino default", "default", "default")
    assert dict(default.deployment.runtime_options) == {"precision": "default", "snippets": "on"}


def test_a_runtime_whose_own_default_is_f32_has_one_baseline(layer):
    pytest.importorskip("onnxruntime")
    assert [form.subject for form in baselines(Deployment("onnxruntime", layer))] == ["float"]


def test_what_a_recipe_decides_for_the_compressed_form_binds_no_baseline_and_where_it_runs_does(layer):
    given = Deployment("openvino", layer, {"device": "CPU", "threads": 2, "precision": "bf16"}, {"threads": 2})
    assert [dict(form.deployment.options) for form in baselines(given)] == [{"device": "CPU"}] * 2
    own = compressed(given, "openvino int8")
    assert (own.deployment, own.precision_asked) == (given, "bf16")


def test_forms_are_called_after_what_they_belong_to(layer):
    deployment = Deployment("openvino", layer)
    assert [form.name for form in baselines(deployment, source="b")] == ["b, openvino float", "b, openvino default"]
    assert compressed(deployment, "openvino", source="b").source == "b"
