"""Every head: shapes by task and by steps, several at once, export, and what it says when it cannot be."""

import pytest

from edgemm.contracts import plugins
from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.contracts.card import Output  # noqa: E402  (torch may be absent)
from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.protocols import Head  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402

IMAGE = {"image": {"cnn": {"channels": [4, 8], "width": 16}}}
SCENE = {**IMAGE, "text": {"bag": {"embedding": 8, "hidden": 8, "width": 16}}}
ABC = ["a", "b", "c"]
PER_STEP = {
    "kind": {"task": "classification", "labels": ABC, "per_step": True},
    "tags": {"task": "multilabel", "labels": ABC, "per_step": True},
    "level": {"task": "regression", "per_step": True},
    "change": {"task": "classification", "labels": ABC, "per_step": True},
    "moved": {"task": "classification", "labels": ABC},
    "whole": {"task": "regression"},
    "place": {"task": "embedding"},
}
HEADS = {
    "change": {"change": {"hidden": 8}},
    "moved": "change",
    "whole": {"regression": {"size": 2}},
    "embedding": {"embedding": {"size": 6}},
}


def _head(name, output, width=8, **options):
    return plugins.find(Head, name)(width, output, **options).eval()


def test_each_task_answers_in_its_shape():
    vector = torch.randn(5, 8)
    assert _head("classification", Output("x", "classification", {"labels": tuple(ABC)}))(vector).shape == (5, 3)
    assert _head("multilabel", Output("x", "multilabel", {"labels": tuple(ABC)}), hidden=4)(vector).shape == (5, 3)
    assert _head("regression", Output("x", "regression"))(vector).shape == (5,)
    assert _head("regression", Output("x", "regression"), size=2)(vector).shape == (5, 2)


def test_an_embedding_has_length_one_and_survives_a_zero_vector():
    head = _head("embedding", Output("x", "embedding"), size=6)
    torch.testing.assert_close(head(torch.randn(5, 8)).norm(dim=1), torch.ones(5))
    torch.nn.init.zeros_(head.layers[1].bias)
    assert torch.isfinite(head(torch.zeros(1, 8))).all()


def test_a_change_depends_on_the_steps_before_and_not_on_those_after():
    head = _head("change", Output("x", "classification", {"labels": tuple(ABC), "per_step": True}))
    steps = torch.randn(1, 4, 8)
    later = steps.clone()
    later[:, 2:] = 0.0
    torch.testing.assert_close(head(steps)[:, :2], head(later)[:, :2])
    assert not torch.allclose(head(steps)[:, 3], head(torch.cat([steps[:, :1] + 1, steps[:, 1:]], dim=1))[:, 3])


def test_several_heads_answer_at_once_per_step_and_for_the_whole(make_model, gradients_are_finite):
    model = make_model(SCENE, outputs=PER_STEP, steps={"image": 4}, heads=HEADS, fusion={"concat": {"width": 16}})
    assert gradients_are_finite(model, 2)
    shapes = {name: tuple(value.shape) for name, value in model.eval()(sample_inputs(model.card)).items()}
    assert shapes == {
        "kind": (2, 4, 3), "tags": (2, 4, 3), "level": (2, 4), "change": (2, 4, 3), "moved": (2, 3), "whole": (2, 2), "place": (2, 6),
    }  # fmt: skip


@pytest.mark.parametrize("fusion", [{"concat": {"width": 16}}, {"cross_attention": {"width": 16, "heads": 2}}])
def test_steps_export_without_index_arithmetic_and_answer_the_same(fusion, make_model, exported):
    graph, difference = exported(make_model(SCENE, outputs=PER_STEP, steps={"image": 4}, heads=HEADS, fusion=fusion))
    kinds = {node.op_type for node in graph.graph.node}
    assert difference < 1e-4
    assert "LSTM" in kinds
    assert not kinds & {"Shape", "Range", "Loop", "GatherND", "ConstantOfShape"}


def test_each_step_is_encoded_as_if_it_came_alone(make_model):
    outputs = {"kind": PER_STEP["kind"]}
    model = make_model(SCENE, outputs=outputs, steps={"image": 4}, fusion={"concat": {"width": 16}}).eval()
    alone = make_model(SCENE, outputs={"kind": {"task": "classification", "labels": ABC}}, fusion={"concat": {"width": 16}}).eval()
    alone.module.load_state_dict(model.module.state_dict())
    inputs = sample_inputs(model.card)
    together = model(inputs)["kind"]
    for step in range(4):
        torch.testing.assert_close(together[:, step], alone({**inputs, "image": inputs["image"][:, step]})["kind"])


def test_a_head_without_labels_says_where_to_write_them(make_card):
    with pytest.raises(CardError) as caught:
        build(make_card(IMAGE, outputs={"event": {"task": "classification"}}))
    assert caught.value.what == "outputs.event: 'classification' needs labels, and the card lists none."
    assert "edgemm train" in caught.value.fix


@pytest.mark.parametrize(
    ("output", "heads", "what"),
    [
        ({"task": "classification", "labels": ABC}, {"x": "change"}, "outputs.x: head 'change' needs an input with steps."),
        ({"task": "classification", "labels": ABC, "per_step": True}, {}, "outputs.x: 'per_step: true' needs an input with steps."),
        ({"task": "tensor"}, {}, "outputs.x: the reference models have no head for task 'tensor'."),
    ],
)
def test_a_head_that_cannot_be_says_why(output, heads, what, make_card):
    with pytest.raises(CardError) as caught:
        build(make_card(IMAGE, outputs={"x": output}, heads=heads))
    assert caught.value.what == what
    assert caught.value.fix


def test_inputs_that_disagree_about_the_steps_are_refused(make_card):
    with pytest.raises(CardError, match="inputs disagree about the steps: 'image' 4, 'motion' 3"):
        build(make_card({"image": None, "motion": None}, steps={"image": 4, "motion": 3}))


def test_every_task_that_trains_has_a_head():
    assert {task for task in plugins.names("tasks") if task != "tensor"} <= set(plugins.names("heads"))
