"""`init`: a card drafted by running the user's factory."""

from pathlib import Path

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Card
from edgemm.errors import CardError, CheckpointError, EdgemmError, OutputError
from edgemm.verbs.init import init
from edgemm.workshop.models.checkpoint.loading import load_model

MODEL = """
import torch
from torch import nn

class Fused(nn.Module):
    def __init__(self, classes=7, width=8):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.audio = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, width, 64, 32), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.words, self.imu = nn.EmbeddingBag(3, width), nn.Linear(6, width)
        self.event, self.level = nn.Linear(width, classes), nn.Linear(width, 1)

    def forward(self, image, audio, text, *, imu):
        x = self.image(image) + self.audio(audio) + self.words(text) + self.imu(imu).mean(1)
        return {"event": self.event(x), "level": self.level(x), "map": x[:, :, None]}

build = Fused

class One(nn.Module):
    def forward(self, image, mask=None):
        return image.mean((2, 3))

class Two(nn.Module):
    def forward(self, text, mask):
        return text.float() * mask, mask.sum(1).float()
"""
INPUTS = ("image=3x64x48", "audio=16000@16000hz", "text=tokens:16", "imu=50x6@50hz")


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """The current directory, with the user's drafted.py in it."""
    (tmp_path / "drafted.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled_in(path: Path) -> Card:
    """The draft as a person completes it."""
    text = path.read_text().replace("labels: []", "labels: [a, b, c, d, e, f, g]").replace("tokenizer: tokenizer.json", "vocab: 3")
    path.write_text(text.replace("  # FILL IN", ""))
    return cards.load(path)


def test_a_draft_names_what_must_be_filled_in_and_is_rejected_until_it_is(place):
    path = init("drafted:build", inputs=INPUTS)
    with pytest.raises(EdgemmError) as caught:
        cards.load(path)
    for name in ("mean", "std", "tokenizer", "labels", "task"):
        assert f"'{name}' is not filled in" in str(caught.value)


def test_a_filled_in_draft_is_a_card_that_loads_the_model(place):
    card = filled_in(init("drafted:build", inputs=INPUTS, kwargs=["width=16"]))
    assert {name: spec.modality for name, spec in card.inputs.items()} == {
        "image": "image",
        "audio": "audio",
        "text": "text",
        "imu": "sensor",
    }
    assert (card.inputs["image"].options["height"], card.inputs["image"].options["width"]) == (64, 48)
    assert card.inputs["audio"].options == {"rate_hz": 16000, "seconds": 1}
    assert card.inputs["imu"].options == {"shape": [50, 6], "rate_hz": 50}
    assert {name: spec.task for name, spec in card.outputs.items()} == {"event": "classification", "level": "regression", "map": "tensor"}
    assert load_model(card).module.event.in_features == 16


def test_the_number_of_labels_is_said(place):
    assert "# 7 labels, in the order of the model's logits" in init("drafted:build", inputs=INPUTS).read_text()


@pytest.mark.parametrize("form", ["3x8x6", "8x6x3", "image:3x8x6"])
def test_a_picture_is_understood_in_either_order(place, form):
    options = cards.load(_without_marks(init("drafted:One", inputs=[f"picture={form}"]))).inputs["picture"].options
    assert (options["height"], options["width"], options["channels"]) == (8, 6, 3)


def test_sound_can_come_as_features(place):
    (place / "mels.py").write_text("from torch import nn\nclass M(nn.Module):\n  def forward(self, x): return x.mean(2)\n")
    path = init("mels:M", inputs=["mic=8000@16000hz:log_mel=40"])
    assert "40 labels" in path.read_text()
    assert "features: {log_mel: {mels: 40}}" in path.read_text()


def test_a_model_that_takes_no_samples_is_tried_with_features_which_are_to_be_confirmed(place):
    (place / "mels64.py").write_text(
        "from torch import nn\nclass M(nn.Module):\n  def __init__(s): super().__init__(); s.c = nn.Conv1d(64, 4, 3)\n"
        "  def forward(s, x): return s.c(x).mean(2)\n"
    )
    text = init("mels64:M", inputs=["mic=8000@8000hz"]).read_text()
    assert "features: {log_mel: {mels: 64}}  # FILL IN" in text
    assert "guessed" not in text


def test_a_text_with_a_mask_gives_forward_two_tensors_and_a_tuple_gives_numbered_outputs(place):
    path = init("drafted:Two", inputs=["text=tokens:5+mask"])
    assert "mask: true" in path.read_text()
    assert "  output_1:\n    task: classification" in path.read_text()
    assert "  output_2:\n    task: regression" in path.read_text()


def test_a_factory_away_from_the_card_is_found_again(place):
    (place / "cards").mkdir()
    card = cards.load(_without_marks(init("drafted:One", inputs=["image=3x8x6"], output="cards/one.yaml")))
    assert card.source == ".."
    assert load_model(card)


def test_a_path_to_a_file_is_taken_apart(place):
    (place / "deep").mkdir()
    (place / "deep" / "nested_draft.py").write_text(MODEL)
    card = cards.load(_without_marks(init("deep/nested_draft.py:One", inputs=["image=3x8x6"], output="one.yaml")))
    assert (card.factory, card.source) == ("nested_draft:One", "deep")


def _without_marks(path: Path) -> Path:
    path.write_text(path.read_text().replace("labels: []", "labels: [a, b, c]").replace("  # FILL IN", ""))
    return path


def test_a_card_that_is_there_is_never_replaced(place):
    (place / "model.yaml").write_text("precious")
    with pytest.raises(OutputError, match=r"model\.yaml is already there"):
        init("drafted:build", inputs=INPUTS)
    assert (place / "model.yaml").read_text() == "precious"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("image", "input 'image' cannot be understood"),
        ("image=3xx4", "input 'image=3xx4' cannot be understood"),
        ("image=3by4", "write name=form, such as audio=16000@16000hz"),
        ("mic=sound:16000@16000hz", "unknown kind 'sound'"),
        ("picture=image:5x64x64", "a picture has three sizes, one of them 1, 3 or 4 channels"),
        ("mic=audio:16000", "a sound is a number of samples at a rate"),
    ],
)
def test_an_input_that_cannot_be_understood_is_an_error(place, given, words):
    with pytest.raises(CardError, match=words):
        init("drafted:build", inputs=[given])
    assert not (place / "model.yaml").exists()


def test_no_inputs_are_an_error(place):
    with pytest.raises(CardError, match="no input is given"):
        init("drafted:build", inputs=[])


def test_kwargs_of_another_form_are_an_error(place):
    with pytest.raises(CardError, match="'width' is not of the form key=value"):
        init("drafted:build", inputs=INPUTS, kwargs=["width"])
    with pytest.raises(CardError, match="its value is not YAML"):
        init("drafted:build", inputs=INPUTS, kwargs=["width='"])


def test_kwargs_are_read_as_those_of_a_card_are(place):
    assert filled_in(init("drafted:build", inputs=INPUTS, kwargs=["width=012"])).kwargs == {"width": 12}


def test_a_model_that_fails_on_the_shapes_given_is_named_with_its_line(place):
    with pytest.raises(CheckpointError, match=r"the model failed at .*drafted\.py:\d+ when called with image \(2, 1, 64, 64\)"):
        init("drafted:build", inputs=("image=1x64x64", *INPUTS[1:]))


def test_a_forward_with_other_inputs_is_an_error(place):
    with pytest.raises(CardError, match="does not take what the card feeds it: image, audio"):
        init("drafted:build", inputs=INPUTS[:2])


def test_a_model_that_returns_no_tensors_is_an_error(place):
    (place / "wordy.py").write_text("from torch import nn\nclass M(nn.Module):\n  def forward(self, x): return {'a': x, 'b': 'text'}\n")
    with pytest.raises(CardError, match="the model returned dict: 'b' is a str"):
        init("wordy:M", inputs=["x=4"])


def test_an_unknown_module_is_an_error(place):
    with pytest.raises(CardError, match="there is no module 'draughted'"):
        init("draughted:build", inputs=INPUTS)


@pytest.fixture
def vit_folder(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8)
    config.id2label = {0: "cat", 1: "dog", 2: "none"}
    config.label2id = {"cat": 0, "dog": 1, "none": 2}
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_hugging_face_folder_drafts_its_own_inputs_and_labels(vit_folder, tmp_path):
    (vit_folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}'
    )
    card = cards.load(init(str(vit_folder), output=tmp_path / "model.yaml"))
    assert card.factory == "hf:AutoModelForImageClassification"
    assert dict(card.inputs["image"].options) == {"height": 32, "width": 32, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert card.outputs["logits"].labels == ("cat", "dog", "none")


def test_what_a_hugging_face_folder_does_not_say_is_to_be_filled_in(vit_folder, tmp_path):
    path = init(str(vit_folder), output=tmp_path / "model.yaml")
    with pytest.raises(EdgemmError, match="'mean' is not filled in"):
        cards.load(path)


def test_a_hugging_face_folder_that_is_no_classifier_and_of_no_known_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "vocab_size": 10}')
    with pytest.raises(CardError, match="models of type 'unnamed' are not known here"):
        init(str(tmp_path), output=tmp_path / "model.yaml")


def test_a_hugging_face_folder_given_as_a_card_says_how_to_draft_one(vit_folder):
    with pytest.raises(CardError, match="is a Hugging Face folder without a card"):
        cards.load(vit_folder)
