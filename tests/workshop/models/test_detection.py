"""Heads that say where things are: their form, their export, their parts, and what they say when they cannot be."""

import numpy as np
import pytest

from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.contracts import task as tasks  # noqa: E402  (torch may be absent)
from edgemm.data.boxes import forms  # noqa: E402
from edgemm.graph.split import split  # noqa: E402
from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.torch_branches import find_parts  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from tests.graph.test_split import answers, in_parts  # noqa: E402

C2F = {"c2f": {"channels": [4, 8, 12]}}
SCENE = {"image": C2F, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 8}}}
CAMERAS = {**SCENE, "night": C2F}
LABELS = ["a", "b", "c"]
BOXES = {"task": "detection", "labels": LABELS, "frame": "image", "boxes": {"form": "cxcywh", "unit": "pixels"}}
SET = {
    **BOXES, "layout": "set", "boxes": {"form": "cxcywh", "unit": "ratio"}, "scores": "softmax_with_nothing",
    "from": {"scores": "logits", "boxes": "edges"},
}  # fmt: skip
CASES = {
    "film": (SCENE, {"film": {"width": 8}}, {}),
    "gated_maps": (CAMERAS, {"gated_maps": {"width": 8}}, {}),
    "attended_maps": (CAMERAS, {"attended_maps": {"width": 8, "heads": 2}}, {}),
    "queries": (SCENE, {"film": {"width": 8}}, {"queries": 6, "heads": 2}),
    "scene": (SCENE, {"film": {"width": 8}}, {"scene": True}),
    "one picture": ({"image": C2F}, {"film": {"width": 8}}, {"hidden": 4, "layers": 1}),
}
CELLS = 8 * 8 + 4 * 4  # strides 4 and 8 of 32 x 32 pixels
INDEX_OPS = {"Shape", "Range", "Loop", "GatherND", "ConstantOfShape", "IsNaN"}


@pytest.fixture(params=CASES)
def model(request, make_model):
    inputs, fusion, options = CASES[request.param]
    head, output = ("queries", SET) if request.param == "queries" else ("detection", BOXES)
    return make_model(inputs, outputs={"found": output}, fusion=fusion, heads={"found": {head: options}})


def test_it_learns_from_two_samples_and_from_one(model, gradients_are_finite):
    assert gradients_are_finite(model, 2)
    assert gradients_are_finite(model.eval(), 1)


def test_it_exports_without_index_arithmetic_and_answers_the_same(model, exported):
    graph, difference = exported(model)
    assert difference < 1e-4
    assert not {node.op_type for node in graph.graph.node} & INDEX_OPS


def test_it_answers_in_the_form_that_the_card_says(model):
    answer = model.eval()(sample_inputs(model.card))
    task = tasks.of(model.card.outputs["found"])
    boxes, scores = forms.decode({name: value.detach().numpy() for name, value in answer.items()}, task.form)
    count = 6 if task.layout == "set" else CELLS
    assert boxes.shape == (2, count, 4)
    assert scores.shape == (2, count, 3)
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    if task.layout == "set":
        return
    assert scores.max() < 0.2, "before training nothing is there"
    middles = np.concatenate([(np.mgrid[0:n, 0:n].reshape(2, -1)[::-1].T + 0.5) * stride for n, stride in ((8, 4), (4, 8))])
    assert (np.abs((boxes[..., :2] + boxes[..., 2:]) / 2 - middles) < 8).all(), "each about the place where its cell is"


def test_it_has_a_branch_for_each_input_that_runs_alone(model, exported):
    graph, _ = exported(model)
    parts = split(graph, model.card)
    assert set(parts.branches) == set(model.card.inputs)
    feed = {name: value.numpy() for name, value in sample_inputs(model.card, batch=3).items()}
    joined = in_parts(parts, feed)
    for name, value in answers(graph, feed).items():
        np.testing.assert_allclose(joined[name], value, atol=1e-3)


def test_other_heads_see_the_mean_over_the_coarsest_map(make_model):
    both = {"found": BOXES, "kind": {"task": "classification", "labels": LABELS}}
    model = make_model(SCENE, outputs=both, fusion={"film": {"width": 8}}).eval()
    inputs = sample_inputs(model.card)
    seen = []
    model.module.fusion.register_forward_hook(lambda module, args, returned: seen.append(returned[-1]))
    answer = model(inputs)["kind"]
    torch.testing.assert_close(answer, model.module.heads["kind"](seen[0].mean((2, 3))))
    assert set(find_parts(model).names()) == {"image", "text", "fusion", "head:found", "head:kind"}


@pytest.mark.parametrize(
    ("output", "kwargs", "what", "fix"),
    [
        ({}, {"fusion": "concat"}, "head 'detection' needs a fusion that keeps space, and 'concat' gives a vector.", "film, gated_maps"),
        ({"scores": "sigmoid"}, {}, "head 'detection' answers with scores: probability, and the card says sigmoid.", "scores: probability"),
        ({"boxes": {"form": "xyxy"}}, {}, "answers with boxes.form: cxcywh, and the card says xyxy.", "write boxes: {form: cxcywh}."),
        ({"frame": "night"}, {"fusion": {"film": {"picture": "image"}}}, "frame is 'night', and the maps are those of 'image'.", "picture"),
        ({"layout": "set", "from": SET["from"]}, {"heads": {"found": "queries"}}, "answers with scores: softmax_with_nothing", "scores:"),
        (SET, {"heads": {"found": {"queries": {"queries": 99}}}}, "99 queries, and the maps have 80 cells.", "at most 80"),
    ],
)
def test_a_head_that_does_not_fit_says_why(output, kwargs, what, fix, make_card):
    inputs = CAMERAS if output.get("frame") == "night" else SCENE
    with pytest.raises(CardError) as caught:
        build(make_card(inputs, outputs={"found": BOXES | output}, **({"fusion": {"film": {"width": 8}}} | kwargs)))
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_steps_are_refused_where_places_are_asked_for(make_card):
    with pytest.raises(CardError, match="head 'detection' answers about one picture, and an input has steps"):
        build(make_card(SCENE, outputs={"found": BOXES}, steps={"image": 4}, fusion={"film": {"width": 8}}))
