"""Heads that answer for every place of a picture: shapes, learning, export, parts, and what they say when they cannot be."""

import numpy as np
import pytest

from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.contracts import task as tasks  # noqa: E402  (torch may be absent)
from edgemm.graph.split import split  # noqa: E402
from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402
from tests.graph.test_split import answers, in_parts  # noqa: E402

SCENE = {"image": {"c2f": {"channels": [4, 8, 12], "levels": 3}}, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 8}}}
FILM = {"film": {"width": 8}}
AREA = {"task": "segmentation", "labels": ["ground", "road", "wall"], "frame": "image"}
POSE = {"task": "keypoints", "labels": ["tent", "rod"], "points": ["head", "tail"], "frame": "image", "layout": "centres"}
INDEX_OPS = {"Shape", "Range", "Loop", "GatherND", "ConstantOfShape", "IsNaN"}


@pytest.fixture
def model(make_model):
    return make_model(SCENE, outputs={"area": AREA, "pose": POSE}, fusion=FILM)


def test_masks_are_of_the_pictures_size_and_heat_maps_of_the_finest_maps(model, make_model):
    shapes = {name: tuple(value.shape) for name, value in model.eval()(sample_inputs(model.card)).items()}
    assert shapes == {"area": (2, 3, 32, 32), "pose": (2, 2 + 3 * 2, 16, 16)}
    one = {**POSE, "labels": ["rod"], "layout": "heatmaps"}
    heads = {"area": {"segmentation": {"upsample": False, "hidden": 4, "layers": 0}}}
    coarse = make_model(SCENE, outputs={"area": AREA, "pose": one}, fusion=FILM, heads=heads).eval()
    shapes = {name: tuple(value.shape) for name, value in coarse(sample_inputs(coarse.card)).items()}
    assert shapes == {"area": (2, 3, 16, 16), "pose": (2, 2, 16, 16)}


def test_before_training_almost_no_place_is_a_point(model):
    answer = model.eval()(sample_inputs(model.card))["pose"].detach().numpy()
    assert tasks.of(model.card.outputs["pose"]).found({"pose": answer})[0][:, 1].max(initial=0) < 0.2


def test_it_learns_from_two_samples_and_from_one(model, gradients_are_finite):
    assert gradients_are_finite(model, 2)
    assert gradients_are_finite(model.eval(), 1)


def test_it_exports_without_index_arithmetic_and_has_a_branch_for_each_input(model, exported):
    graph, difference = exported(model)
    assert difference < 1e-4
    assert not {node.op_type for node in graph.graph.node} & INDEX_OPS
    parts = split(graph, model.card)
    assert set(parts.branches) == set(model.card.inputs)
    feed = {name: value.numpy() for name, value in sample_inputs(model.card, batch=3).items()}
    joined = in_parts(parts, feed)
    for name, value in answers(graph, feed).items():
        np.testing.assert_allclose(joined[name], value, atol=1e-3)


@pytest.mark.parametrize(
    ("output", "fusion", "what"),
    [
        (AREA, "concat", "head 'segmentation' needs a fusion that keeps space, and 'concat' gives a vector."),
        (AREA | {"frame": "night"}, {"film": {"picture": "image"}}, "frame is 'night', and the maps are those of 'image'."),
        (POSE | {"layout": "list"}, FILM, "head 'keypoints' cannot answer with layout: list, scores: sigmoid."),
        (POSE | {"scores": "probability"}, FILM, "head 'keypoints' cannot answer with layout: centres, scores: probability."),
    ],
)
def test_a_head_that_does_not_fit_says_why(output, fusion, what, make_card):
    inputs = {**SCENE, "night": SCENE["image"]} if output.get("frame") == "night" else SCENE
    with pytest.raises(CardError) as caught:
        build(make_card(inputs, outputs={"found": output}, fusion=fusion))
    assert what in caught.value.what
    assert caught.value.fix
