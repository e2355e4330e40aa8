"""From a card to a model: which parts it finds, and what it says about those it does not."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.errors import CardError, Mistakes

torch = pytest.importorskip("torch")

from edgemm.workshop.models.build import build, features_of  # noqa: E402  (torch may be absent)


def _names(model):
    encoders = {name: type(encoder).__name__ for name, encoder in model.encoders.items()}
    return encoders, type(model.fusion).__name__, {name: type(head).__name__ for name, head in model.heads.items()}


def test_parts_are_found_by_the_inputs_name_before_its_modality(make_card):
    card = make_card({"audio": {"lstm": {}}, "wave": None}, encoders={"audio": {"lstm": {}}})
    encoders, _, _ = _names(build(card))
    assert encoders == {"audio": "Lstm", "wave": "Lstm"}  # 'audio' is an input's name and a modality's


def test_a_card_with_other_inputs_takes_the_shipped_parts_by_modality():
    door = {"modality": "image", "height": 32, "width": 48, "channels": 1, "mean": [0.5], "std": [0.5]}
    bell = {"modality": "audio", "rate_hz": 8000, "seconds": 0.5, "features": {"log_mel": {"mels": 24}}}
    plain = {
        "factory": "models:image-audio-gated",
        "inputs": {"bell": bell, "door": door, "yard": door, "climate": {"modality": "sensor", "shape": [3], "rate_hz": 1}},
        "outputs": {"who": {"task": "classification", "labels": ["nobody", "friend"]}, "tags": {"task": "multilabel", "labels": ["dark"]}},
    }
    encoders, fusion, heads = _names(build(cards.parse(plain)))
    assert encoders == {"bell": "ConvGru", "door": "DepthwiseCnn", "yard": "DepthwiseCnn", "climate": "Mlp"}
    assert fusion == "Gated"
    assert heads == {"who": "Classification", "tags": "Multilabel"}


def test_the_cards_options_go_over_those_of_the_shipped_card(make_card):
    shipped = build(make_card({"image": None, "text": None}, factory="models:image-text-concat"))
    wider = build(make_card({"image": None, "text": None}, factory="models:image-text-concat", fusion={"concat": {"width": 200}}))
    assert wider.fusion.width == 200
    assert wider.fusion.layers[2].p == shipped.fusion.layers[2].p > 0  # dropout is still the shipped one
    other = build(make_card({"image": {"vit": {}}, "audio": {"tcn": {}}}, fusion="average"))
    assert _names(other)[:2] == ({"image": "Vit", "audio": "Tcn"}, "Average")


def test_a_single_input_has_no_fusion_to_speak_of(make_card):
    model = build(make_card({"image": None}))
    assert not list(model.fusion.parameters())
    assert model(torch.zeros(2, 3, 32, 32))["label"].shape == (2, 3)


def test_forward_takes_the_inputs_in_card_order_and_a_mask_after_its_text(make_card):
    model = build(make_card({"masked": None, "image": None})).eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    assert list(model(ids, torch.ones_like(ids), torch.zeros(2, 3, 32, 32))) == ["label"]


def test_the_same_seed_gives_the_same_weights(make_card):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(make_card({"image": None, "audio": None})).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_the_shape_of_an_encoders_input_comes_from_the_front_end(make_card):
    card = make_card({"audio": None, "masked": None})
    features, tensors = features_of(card.inputs["audio"], card.folder)
    assert features.shape == (16, 30)  # 1 + (4000 - 200) // 128
    assert tensors == 1
    features, tensors = features_of(card.inputs["masked"], card.folder)
    assert (features.shape, features.vocabulary, features.pad, tensors) == ((8,), 40, 0, 2)


@pytest.mark.parametrize(
    ("kwargs", "what", "fix"),
    [
        ({"encoder": {}}, "kwargs: unknown key 'encoder'.", "did you mean 'encoders'?"),
        ({"encoders": {"image": {"cnnn": {}}}}, "kwargs.encoders.image: there is no encoder 'cnnn'.", "did you mean 'cnn'?"),
        ({"encoders": {"image": {"cnn": {"widht": 3}}}}, "kwargs.encoders.image.cnn: unknown key 'widht'.", "did you mean 'width'?"),
        ({"encoders": {"image": {"cnn": {"width": "big"}}}}, "kwargs.encoders.image.cnn.width: 'big' is not a whole number.", "write a"),
        ({"encoders": {"imagee": {"cnn": {}}}}, "kwargs.encoders: 'imagee' is no input or modality of this card.", "did you mean 'image'?"),
        ({"encoders": {"image": {"cnn": {}, "vit": {}}}}, "is not one plugin with its options.", "write {bag: {}}."),
        (
            {"encoders": {"image": {"cnn": [1]}}},
            "kwargs.encoders.image.cnn: [1] is not a mapping of options.",
            "write cnn: {option: value}.",
        ),
        ({"encoders": ["cnn"]}, "kwargs.encoders: ['cnn'] is not a mapping.", "write encoders: {"),
        ({"fusion": {"concatt": {}}}, "kwargs.fusion: there is no fusion 'concatt'.", "did you mean 'concat'?"),
        ({"fusion": {"gated": {"gate": "soft"}}}, "kwargs.fusion.gated.gate: unknown value 'soft'.", "scalar"),
        ({"heads": {"label": "classifier"}}, "kwargs.heads.label: there is no head 'classifier'.", "did you mean 'classification'?"),
        ({"heads": {"labels": "change"}}, "kwargs.heads: 'labels' is no output or task of this card.", "did you mean 'label'?"),
    ],
)
def test_a_mistake_in_kwargs_is_named_with_the_nearest_right_word(kwargs, what, fix, make_card):
    card = make_card({"image": None}).replace(kwargs=kwargs)
    with pytest.raises(CardError) as caught:
        build(card)
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"encoders": {"image": {"depthwise_cnn": {"channels": []}}}}, "inputs.image: encoder 'depthwise_cnn'"),
        ({"encoders": {"image": {"vit": {"patch": 0}}}}, "inputs.image: encoder 'vit'"),
        ({"encoders": {"image": {"cnn": {"width": 0}}}}, "inputs.image: encoder 'cnn'"),
        ({"encoders": {"image": {"cnn": {"channels": [0, 4]}}}}, "inputs.image: encoder 'cnn'"),
        ({"encoders": {"image": {"cnn": {"width": -3}}}}, "inputs.image: encoder 'cnn'"),
        ({"encoders": {"image": {"cnn": {"width": 10**12}}}}, "inputs.image: encoder 'cnn'"),
        ({"fusion": {"concat": {"width": -1}}}, "fusion 'concat'"),
    ],
)
def test_options_of_the_right_type_that_no_layer_can_have_are_told(kwargs, what, make_card):
    with pytest.raises((CardError, Mistakes)) as caught:
        build(make_card({"image": None}).replace(kwargs=kwargs))
    assert f"{what} cannot be built with its options." in str(caught.value)
    assert caught.value.why


def test_all_mistakes_are_reported_at_once(make_card):
    kwargs = {"encoders": {"image": {"cnnn": {}}}, "fusion": {"concatt": {}}, "head": {}}
    with pytest.raises(Mistakes) as caught:
        build(make_card({"image": None}).replace(kwargs=kwargs))
    assert len(caught.value.errors) == 3


def test_an_unknown_reference_model_is_answered_with_the_nearest(make_card):
    with pytest.raises(CardError) as caught:
        build(make_card({"image": None}, factory="models:digit"))
    assert caught.value.what == "factory 'models:digit' names no reference model."
    assert "did you mean 'digits'?" in caught.value.fix


@pytest.mark.parametrize("name", ["front.door", "keys", "forward"])
def test_a_name_that_torch_cannot_give_a_submodule_is_refused(name):
    image = {"modality": "image", "height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    plain = {"factory": "models:digits", "inputs": {name: image}, "outputs": {"x": {"task": "regression"}}}
    with pytest.raises(CardError, match=f"cannot have an input or output called '{name}'"):
        build(cards.parse(plain))
