"""A detector's graph that answers with the best score of each label, held against the decoding that the metric and the box use."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Input, Output
from edgemm.data.boxes import forms
from edgemm.errors import CardError
from edgemm.graph.detected import with_best_scores
from tests.onnx_models import model

IMAGE = Input("image", "image", {"height": 32, "width": 32})


def passing(shapes):
    """A graph that hands its inputs on."""
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name], name) for name in shapes]
    sides = [{f"{name}{end}": ["batch", *shape[1:]] for name, shape in shapes.items()} for end in ("_in", "")]
    return model(nodes, *sides)


def detector(**options):
    return tasks.of(Output("things", "detection", {"frame": "image", "labels": ("a", "b", "c"), **options}, {"image": IMAGE}))


FORMS = {
    "yolo": ({}, {"things": (2, 7, 20)}),
    "yolo, sigmoid, turned": ({"scores": "sigmoid", "from_": {"joined": "raw"}}, {"raw": (2, 20, 7)}),
    "objectness": ({"layout": "objectness", "scores": "sigmoid"}, {"things": (2, 20, 8)}),
    "root of objectness": (
        {"layout": "objectness", "objectness": "root"},
        {"things": (2, 20, 8)},
    ),
    "levels": (
        {"layout": "levels", "scores": "sigmoid", "from_": {"scores": ["s8", "s16"], "boxes": ["b8", "b16"]},
         "boxes": {"form": "ltrb", "unit": "stride", "strides": [8, 16]}},
        {"s8": (2, 3, 4, 4), "s16": (2, 3, 2, 2), "b8": (2, 4, 4, 4), "b16": (2, 4, 2, 2)},
    ),
    "set": (
        {"layout": "set", "scores": "softmax_with_nothing", "from_": {"scores": "said", "boxes": "where"}},
        {"said": (2, 9, 4), "where": (2, 9, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_its_answer_is_the_best_score_of_each_label_that_decoding_finds(name):
    options, shapes = FORMS[name]
    task = detector(**options)
    rng = np.random.default_rng(0)
    answers = {key: rng.uniform(0, 1, shape).astype(np.float32) for key, shape in shapes.items()}
    graph = with_best_scores(passing(shapes), "things", task.form)
    assert [value.name for value in graph.graph.output] == ["things"]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (best,) = session.run(["things"], {f"{key}_in": value for key, value in answers.items()})
    np.testing.assert_allclose(best, forms.decode(answers, task.form)[1].max(1), rtol=1e-5)


def test_a_detector_of_open_sizes_is_refused():
    with pytest.raises(CardError, match=r"'things' has no fixed size in the graph"):
        with_best_scores(passing({"things": (2, 7, "places")}), "things", detector().form)
