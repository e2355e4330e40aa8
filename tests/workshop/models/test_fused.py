"""The fused model feeds any forward signature and reads any return."""

import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import nn

from edgemm.contracts import card_file
from edgemm.errors import CardError, SpecMismatch
from edgemm.workshop.models.fused import FusedModel

TWO = {
    "factory": "own:build",
    "inputs": {"left": {"modality": "sensor", "shape": [4]}, "right": {"modality": "sensor", "shape": [3]}},
    "outputs": {"sum": {"task": "regression"}, "kind": {"task": "classification", "labels": ["a", "b"]}},
}
FEED = {"left": torch.ones(2, 4), "right": torch.zeros(2, 3)}


def fused(forward, plain=TWO):
    """A fused model whose module's forward is ``forward``."""
    module = nn.Module()
    module.forward = forward
    return FusedModel(card_file.parse(plain), module)


def answers(left, right):
    return {"sum": left.sum(1), "kind": torch.stack([left.sum(1), right.sum(1)], 1)}


def test_inputs_are_fed_by_position_in_card_order_whatever_the_parameters_are_called():
    model = fused(lambda x, y: answers(x, y))
    assert model(FEED)["sum"].tolist() == [4, 4]


def test_keyword_only_parameters_are_fed_by_name():
    def forward(y, *, left):
        return answers(left, y)

    assert fused(forward)(FEED)["sum"].tolist() == [4, 4]


def test_optional_parameters_beyond_the_cards_inputs_keep_their_defaults():
    assert fused(lambda x, y, scale=1: answers(x, y))(FEED)["sum"].tolist() == [4, 4]


def test_a_text_with_mask_is_followed_by_its_mask():
    plain = TWO | {"inputs": {"words": {"modality": "text", "length": 3, "vocab": 9, "mask": True}, "left": TWO["inputs"]["left"]}}
    seen = {}

    def forward(ids, mask, left):
        seen.update(ids=ids, mask=mask)
        return answers(left, left)

    fused(forward, plain)({"words": torch.tensor([[5, 0, 0], [5, 6, 0]]), "left": FEED["left"]})
    assert seen["mask"].tolist() == [[1, 0, 0], [1, 1, 0]]


def test_a_keyword_only_mask_is_found_by_the_inputs_name():
    plain = TWO | {"inputs": {"words": {"modality": "text", "length": 3, "vocab": 9, "mask": True}, "left": TWO["inputs"]["left"]}}

    def forward(left, *, words, words_mask):
        return answers(left * words_mask.sum(), left)

    assert fused(forward, plain)({"words": torch.tensor([[5, 0, 0], [5, 6, 0]]), "left": FEED["left"]})["sum"].tolist() == [12, 12]


def test_hugging_face_parameters_are_fed_by_their_own_names():
    plain = TWO | {
        "inputs": {
            "photo": {"modality": "image", "height": 2, "width": 2},
            "caption": {"modality": "text", "length": 3, "vocab": 9, "mask": True},
        }
    }

    def forward(input_ids=None, pixel_values=None, attention_mask=None, return_dict=True):
        return {"sum": pixel_values.sum((1, 2, 3)), "kind": torch.stack([input_ids.sum(1), attention_mask.sum(1)], 1)}

    out = fused(forward, plain)(
        {"photo": torch.full((2, 2, 2, 3), 255, dtype=torch.uint8), "caption": torch.tensor([[1, 2, 0], [3, 0, 0]])}
    )
    assert out["sum"].tolist() == [12, 12]
    assert out["kind"].tolist() == [[3, 2], [3, 1]]


class Named(NamedTuple):
    kind: torch.Tensor
    sum: torch.Tensor


@dataclasses.dataclass
class Record:
    sum: torch.Tensor
    kind: torch.Tensor
    hidden: torch.Tensor | None = None


@pytest.mark.parametrize(
    "shape",
    [
        dict,
        lambda o: {"kind": o["kind"], "sum": o["sum"]},
        lambda o: (o["sum"], o["kind"]),
        lambda o: list(o.values()),
        lambda o: Named(**o),
        lambda o: Record(**o),
    ],
    ids=["dict", "dict in another order", "tuple", "list", "named tuple", "dataclass"],
)
def test_every_kind_of_return_becomes_a_dict_in_card_order(shape):
    out = fused(lambda x, y: shape(answers(x, y)))(FEED)
    assert list(out) == ["sum", "kind"]
    assert out["sum"].shape == (2,)
    assert out["kind"].shape == (2, 2)


def test_a_single_tensor_is_the_single_output():
    model = fused(lambda x, y: x.sum(1), TWO | {"outputs": {"level": {"task": "regression"}}})
    assert model(FEED)["level"].tolist() == [4, 4]


def test_a_model_outputs_logits_are_the_single_output_whatever_its_name():
    from transformers.modeling_outputs import SequenceClassifierOutput

    model = fused(lambda x, y: SequenceClassifierOutput(logits=x), TWO | {"outputs": {"mood": {"task": "regression"}}})
    assert model(FEED)["mood"].shape == (2, 4)


def test_unused_parameters_do_no_harm():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(9, 9)

        def forward(self, x, y):
            return x.sum(1), self.used(x)

    assert FusedModel(card_file.parse(TWO), Spare())(FEED)["kind"].shape == (2, 2)


def test_a_missing_input_is_named():
    with pytest.raises(SpecMismatch, match="input 'right' is missing"):
        fused(answers)({"left": FEED["left"]})


def test_a_forward_that_takes_other_inputs_is_named_with_its_signature():
    with pytest.raises(CardError, match=r"forward\(x\) does not take what the card feeds it: left, right"):
        fused(lambda x: x)(FEED)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda o: (o["sum"],), "the model returned 1 value; the card names 2: sum, kind"),
        (lambda o: o["sum"], "the model returned 1 value; the card names 2: sum, kind"),
        (lambda o: {"sum": o["sum"], "kinds": o["kind"]}, r"no output 'kind'(.|\n)*did you mean 'kinds'"),
        (lambda o: o | {"sum": 3}, "the model returned int for output 'sum', not a tensor"),
        (lambda o: None, "the model returned NoneType"),
    ],
)
def test_a_return_that_does_not_fit_the_card_is_an_error_naming_the_outputs(returned, words):
    with pytest.raises(CardError, match=words):
        fused(lambda x, y: returned(answers(x, y)))(FEED)


def test_what_a_dict_holds_beside_the_cards_outputs_is_left_out():
    assert list(fused(lambda x, y: answers(x, y) | {"extra": x})(FEED)) == ["sum", "kind"]


@pytest.mark.parametrize("extra", [lambda x: (x, x), lambda x: ([x],)], ids=["two more", "a list"])
def test_a_longer_tuple_in_training_gives_the_outputs_first_and_is_refused_in_use(extra):
    model = fused(lambda x, y: (*answers(x, y).values(), *extra(x)))
    assert model.train()(FEED)["sum"].tolist() == [4, 4]
    with pytest.raises(CardError, match="the card names 2: sum, kind"):
        model.eval()(FEED)


AUXILIARY = TWO | {
    "outputs": {"sum": {"task": "regression"}, "kind": {"task": "classification", "labels": ["a", "b"], "auxiliary": {2: 0.5}}}
}


def test_an_auxiliary_answer_that_the_card_weighs_is_there_in_training_alone():
    model = fused(lambda x, y: (*answers(x, y).values(), x[:, :2]), AUXILIARY)
    assert model.train()(FEED)["kind (auxiliary 2)"].tolist() == [[1, 1], [1, 1]]
    model = fused(lambda x, y: answers(x, y), AUXILIARY)
    assert list(model.eval()(FEED)) == ["sum", "kind"]
    with pytest.raises(CardError, match=r"outputs.kind.auxiliary: the model returned no tensor at 2 in training mode"):
        model.train()(FEED)


def test_an_auxiliary_answer_is_found_by_its_name():
    outputs = {"sum": {"task": "regression", "auxiliary": {"early": 1}}, "kind": TWO["outputs"]["kind"]}
    model = fused(lambda x, y: answers(x, y) | {"early": x.sum(1)}, TWO | {"outputs": outputs})
    assert model(FEED)["sum (auxiliary early)"].tolist() == [4, 4]


def test_logits_that_are_not_as_many_as_the_labels_are_an_error():
    with pytest.raises(CardError, match=r"output 'kind' has shape \(2, 4\); the card's 2 labels want \(N, 2\) logits"):
        fused(lambda x, y: (x.sum(1), x))(FEED)


FOUND = {
    "factory": "own:build",
    "inputs": {"picture": {"modality": "image", "height": 8, "width": 8}},
    "outputs": {
        "found": {
            "task": "detection", "labels": ["a", "b"], "frame": "picture", "layout": "set", "scores": "softmax_with_nothing",
            "from": {"scores": "logits", "boxes": "pred_boxes"}, "boxes": {"unit": "ratio"},
        },
        "level": {"task": "regression"},
    },
}  # fmt: skip
PICTURE = {"picture": torch.zeros(2, 8, 8, 3, dtype=torch.uint8)}


def detected(places=5, labels=2):
    return {"pred_boxes": torch.zeros(2, places, 4), "logits": torch.zeros(2, 5, labels + 1), "level": torch.zeros(2), "other": 1}


def test_an_output_that_joins_tensors_is_answered_with_these():
    answered = fused(lambda picture: detected(), FOUND)(PICTURE)
    assert {name: tuple(value.shape) for name, value in answered.items()} == {
        "logits": (2, 5, 3), "pred_boxes": (2, 5, 4), "level": (2,),
    }  # fmt: skip
    in_order = fused(lambda picture: (detected()["logits"], detected()["pred_boxes"], detected()["level"]), FOUND)(PICTURE)
    assert in_order.keys() == answered.keys()


def test_tensors_that_do_not_fit_the_form_are_told_at_the_first_answer():
    with pytest.raises(CardError, match=r"'logits' is \(batch, 5, 5\)(.|\n)*4 labels \(2 are listed\)"):
        fused(lambda picture: detected(labels=4), FOUND)(PICTURE)
    with pytest.raises(CardError, match="not of the same places: scores 5, boxes 7"):
        fused(lambda picture: detected(places=7), FOUND)(PICTURE)
    with pytest.raises(CardError, match="returned no output 'logits'"):
        fused(lambda picture: {"pred_boxes": torch.zeros(2, 5, 4), "level": torch.zeros(2)}, FOUND)(PICTURE)
