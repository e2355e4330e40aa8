"""Every encoder on each kind of input it takes: it trains at batch 2 and 1, and its graph is small, dynamic and exact."""

import pytest

from edgemm.contracts import plugins
from edgemm.errors import CardError

torch = pytest.importorskip("torch")

from edgemm.workshop.models.build import build  # noqa: E402
from edgemm.workshop.models.protocols import Features  # noqa: E402
from edgemm.workshop.models.tried import sample_inputs  # noqa: E402  (torch may be absent)

TINY = {"channels": [8, 16], "width": 16}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
VIT = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL}
BERT = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 8, **SMALL}
CLIP_TEXT = {**BERT, "model_type": "clip_text_model", "eos_token_id": 39, "bos_token_id": 38, "pad_token_id": 0}

EXPORTED = {
    "cnn": ("image", TINY),
    "cnn, sound": ("audio", {**TINY, "pool": "flatten"}),
    "residual_cnn": ("image", TINY),
    "depthwise_cnn": ("image", TINY),
    "c2f": ("image", {"channels": [4, 8, 12]}),
    "c2f, sound": ("audio", {"channels": [4, 8], "levels": 1}),
    "vit": ("image", {"embedding": 16, "heads": 2, "layers": 1, "width": 16}),
    "conv_gru": ("audio", {**TINY, "hidden": 16}),
    "conv_gru, both ways": ("motion", {**TINY, "hidden": 16, "bidirectional": True}),
    "lstm": ("audio", {"hidden": 16, "layers": 2, "width": 16, "pool": "last"}),
    "tcn": ("wave", {"channels": 8, "stride": 16, "width": 16}),
    "mlp": ("climate", {"hidden": [16], "width": 16}),
    "bag": ("text", {"embedding": 16, "hidden": 16, "width": 16}),
    "text_lstm": ("masked", {"embedding": 16, "hidden": 16, "width": 16, "pool": "last"}),
    "text_cnn": ("text", {"embedding": 16, "channels": 16, "width": 16}),
    "transformer": ("masked", {"embedding": 16, "heads": 2, "layers": 1, "width": 16}),
    "hf_vision": ("image", {"config": RESNET, "width": 16}),
    "hf_text": ("text", {"config": BERT, "width": 16}),
}
TRAINED = {
    **EXPORTED,
    "tcn, motion": ("motion", {"channels": 8, "width": 16}),
    "mlp, motion": ("motion", {"width": 16}),
    "lstm, motion": ("motion", {"hidden": 16, "bidirectional": True, "width": 16}),
    "hf_vision, ViT": ("image", {"config": VIT, "pool": "first"}),
    "hf_vision, CLIP": ("image", {"config": {**VIT, "model_type": "clip_vision_model"}}),
    "hf_vision, CLIP's pooler": ("image", {"config": {**VIT, "model_type": "clip_vision_model"}, "pool": "pooler"}),
    "hf_vision, SigLIP": ("image", {"config": {**VIT, "model_type": "siglip_vision_model"}}),
    "hf_text, CLIP": ("masked", {"config": CLIP_TEXT}),
    "hf_text, SigLIP": ("text", {"config": {**CLIP_TEXT, "model_type": "siglip_text_model", "projection_size": 16}}),
}
RECURRENT = {"conv_gru": "GRU", "conv_gru, both ways": "GRU", "lstm": "LSTM", "text_lstm": "LSTM"}
INDEX_OPS = {"Shape", "Range", "Loop", "Scan", "GatherND", "ConstantOfShape", "IsNaN"}


def _inputs(case, cases):
    name, options = cases[case]
    return {name: {case.partition(",")[0]: options}}


def test_every_encoder_is_exported_here():
    of_folders = {"hf"}  # test_towers.py
    assert {case.partition(",")[0] for case in EXPORTED} == set(plugins.names("encoders")) - of_folders


@pytest.mark.parametrize("case", TRAINED)
def test_an_encoder_learns_from_two_samples_and_from_one(case, make_model, gradients_are_finite):
    model = make_model(_inputs(case, TRAINED))
    assert gradients_are_finite(model, 2)
    assert gradients_are_finite(model.eval(), 1)


@pytest.mark.parametrize("case", EXPORTED)
def test_an_encoder_exports_without_index_arithmetic_and_answers_the_same(case, make_model, exported):
    graph, difference = exported(make_model(_inputs(case, EXPORTED)))
    kinds = {node.op_type for node in graph.graph.node}
    assert difference < 1e-4
    assert not kinds & INDEX_OPS
    assert RECURRENT.get(case) is None or RECURRENT[case] in kinds


@pytest.mark.parametrize("case", TRAINED)
def test_tokens_have_the_encoders_width(case, make_model):
    model = make_model(_inputs(case, TRAINED)).eval()
    (encoder,) = model.module.encoders.values()
    features = model.features(sample_inputs(model.card))
    tokens, mask = encoder.tokens(*features)
    assert encoder(*features).shape == (2, encoder.width)
    assert tokens.shape[0] == 2
    assert tokens.shape[2] == encoder.width
    assert mask is None or mask.shape == tokens.shape[:2]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bag", {}),
        ("text_lstm", {"pool": "mean"}),
        ("text_lstm", {"pool": "last"}),
        ("text_cnn", {}),
        ("transformer", {}),
        ("hf_text", {"config": BERT}),
    ],
)
def test_what_stands_where_the_mask_is_zero_does_not_count(kind, options, make_model):
    encoder = make_model({"masked": {kind: options}}).eval().module.encoders["masked"]
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]])
    short, other = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]]), torch.tensor([[5, 6, 7, 9, 8, 7, 6, 5]])
    torch.testing.assert_close(encoder(short, mask), encoder(other, mask))
    torch.testing.assert_close(encoder(short), encoder(short, mask))  # without a mask, padding is found by its id


def test_the_last_state_of_a_text_is_that_of_its_last_word(make_model):
    encoder = make_model({"text": {"text_lstm": {"pool": "last"}}}).eval().module.encoders["text"]
    ids = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0]])
    state = encoder.lstm(encoder.embedding(ids[:, :3]))[0][:, -1]
    torch.testing.assert_close(encoder(ids), encoder.project(state))


def test_hugging_face_text_answers_as_transformers_does_with_its_own_mask(make_model):
    ids = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 7, 8, 9, 3, 2, 4]])
    for config in (BERT, CLIP_TEXT):
        encoder = make_model({"text": {"hf_text": {"config": config}}}).eval().module.encoders["text"]
        theirs = encoder.backbone(input_ids=ids, attention_mask=ids.ne(0).long()).last_hidden_state
        ours, mask = encoder.tokens(ids)
        torch.testing.assert_close(ours * mask.unsqueeze(2), encoder.project(theirs) * mask.unsqueeze(2), atol=1e-5, rtol=1e-4)


def test_hugging_face_weights_come_from_a_local_directory_beside_the_card(make_model, make_card, tmp_path):
    small = make_model({"image": {"hf_vision": {"config": RESNET}}}).module.encoders["image"].backbone
    small.save_pretrained(tmp_path / "resnet")
    card = make_card({"image": {"hf_vision": {"path": "resnet"}}}).replace(path=tmp_path / "model.yaml")
    loaded = build(card).encoders["image"].backbone
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), loaded.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("inputs", "what", "why"),
    [
        ({"text": {"cnn": {}}}, "inputs.text: encoder 'cnn' cannot take text of shape (8,).", "it wants a picture"),
        ({"image": {"bag": {}}}, "inputs.image: encoder 'bag' cannot take image of shape (3, 32, 32).", "it wants text"),
        ({"image": {"lstm": {}}}, "inputs.image: encoder 'lstm' cannot take image", "sound as (mels, frames)"),
        ({"text": {"mlp": {}}}, "encoder 'mlp' cannot take text", "numbers, not token ids"),
        ({"image": {"vit": {"patch": 64}}}, "encoder 'vit' cannot take image", "at least 64 x 64"),
        ({"image": {"vit": {"embedding": 10, "heads": 4}}}, "a width of 10 cannot be shared by 4 heads", ""),
        ({"audio": {"lstm": {"pool": "last", "bidirectional": True}}}, "'pool: last' and 'bidirectional: true' do not go together", ""),
        ({"image": {"hf_vision": {}}}, "encoder 'hf_vision' of 'image': it needs either 'path' or 'config'.", "neither is given"),
        ({"image": {"hf_vision": {"path": "nowhere"}}}, "'nowhere' is no Hugging Face directory", "nothing is downloaded"),
        ({"image": {"hf_vision": {"config": {"model_type": "resnett"}}}}, "unknown model_type 'resnett'", ""),
        ({"image": {"hf_vision": {"config": {**RESNET, "num_channels": 1}}}}, "encoder 'hf_vision' cannot take image", "shape (1, 32, 32)"),
        ({"audio": {"hf_vision": {"config": RESNET}}}, "encoder 'hf_vision' cannot take audio", "a picture"),
        ({"text": {"hf_text": {"config": {**BERT, "vocab_size": 10}}}}, "encoder 'hf_text' cannot take text", "at most 10 ids and 8 words"),
        ({"image": {"hf_vision": {"config": {**RESNET, "layer_type": "round"}}}}, "transformers cannot make this model", ""),
    ],
)
def test_an_encoder_that_does_not_fit_says_what_it_wants(inputs, what, why, make_card):
    with pytest.raises(CardError) as caught:
        build(make_card(inputs))
    assert what in caught.value.what
    assert why in caught.value.why
    assert caught.value.fix


def test_a_backbone_without_pooler_says_so(make_model):
    headless = {**VIT, "model_type": "siglip_vision_model", "vision_use_head": False}
    model = make_model({"image": {"hf_vision": {"config": headless, "pool": "pooler"}}})
    with pytest.raises(CardError, match="this backbone has no pooler"):
        model.module(torch.zeros(1, 3, 32, 32))


def test_an_unknown_model_type_is_answered_with_the_nearest(make_card):
    with pytest.raises(CardError) as caught:
        build(make_card({"image": {"hf_vision": {"config": {"model_type": "resnett"}}}}))
    assert caught.value.fix == "did you mean 'resnet'?"


def test_features_know_their_input():
    error = Features("scene", "image", (1, 8, 8)).unfit("tcn", "a series")
    assert error.fix == "choose another encoder for 'scene' under kwargs.encoders, or change the input."
