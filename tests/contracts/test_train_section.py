"""The ``train`` section: what it takes, and every mistake at once."""

import re
from pathlib import Path

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import train_section
from edgemm.contracts.train_section import declared
from edgemm.errors import CardError, Mistakes

PLAIN = {
    "factory": "own:build",
    "inputs": {
        "eye": {"modality": "image", "height": 8, "width": 8},
        "ear": {"modality": "audio", "rate_hz": 8000, "seconds": 0.5},
    },
    "outputs": {"event": {"task": "classification", "labels": ["off", "on"]}, "level": {"task": "regression"}},
}
CARD = cards.parse(PLAIN)


def read(text: str, tmp_path: Path, card=CARD):
    file = tmp_path / "train.yaml"
    file.write_text(text)
    return train_section.load(file, card)


def mistakes(section, tmp_path) -> str:
    with pytest.raises((CardError, Mistakes)) as caught:
        cards.parse(PLAIN | {"train": section}, path=tmp_path / "model.yaml")
    return caught.value.block()


def test_a_whole_section_is_read(tmp_path):
    section = read(
        """
        train:
          batch_size: 32
          optimizer: {sgd: {momentum: 0.8}}
          schedule: one-cycle
          average: {swa: {start: 0.5}}
          class_weights: {event: {off: 1, on: 3.5}}
          balance: event
          label_smoothing: 0.1
          modality_dropout: {audio: 0.2}
          mixup: 0.2
          repeats: 3
          augment:
            image: [flip, {rotate: {degrees: 5}}]
            ear: {noise: {snr_db: [5, 20]}, gain: }
          stages:
            - {freeze: [eye, audio], epochs: 2, learning_rate: 0.01}
            - {epochs: 3}
        """,
        tmp_path,
    )
    assert section["augment"] == {"eye": [["flip", {}], ["rotate", {"degrees": 5}]], "ear": [["noise", {"snr_db": [5, 20]}], ["gain", {}]]}
    assert section["class_weights"] == {"event": {"off": 1, "on": 3.5}}


def test_the_card_keeps_the_section_and_does_not_count_it_to_what_the_model_is(tmp_path):
    card = cards.parse(PLAIN | {"train": {"epochs": 3}})
    assert card.train == {"epochs": 3}
    assert card.to_dict() == CARD.to_dict()


def test_paths_are_relative_to_the_file(tmp_path):
    section = read("augment: {audio: [{background: {folder: street}}]}", tmp_path)
    assert section["augment"]["ear"] == [["background", {"folder": str(tmp_path.resolve() / "street")}]]


def test_every_mistake_is_told_at_once_with_what_to_write(tmp_path):
    told = mistakes(
        {
            "learning_rate": -1.0,
            "optimizer": "adamx",
            "schedule": {"plateau": {"factor": 2.0}},
            "loss_weights": {"events": 1.0},
            "class_weights": {"event": {"maybe": 2.0}, "level": "even"},
            "balance": "evnt",
            "augment": {"text": ["drop_words"], "image": ["flipp", "noise", {"crop": {"lest": 0.5}}]},
            "stages": [{"freeze": ["image", "ear", "fusion", "head"], "epochs": 0}, {"freeze": ["eyes"]}],
            "epochs": 3,
        },
        tmp_path,
    )
    for words in (
        "train.learning_rate is -1.0",
        "train.optimizer is 'adamx'",
        "did you mean 'adam'?",
        "train.schedule.plateau.factor is 2.0",
        "train.loss_weights names 'events', no output",
        "train.class_weights.event names 'maybe', no label",
        "train.class_weights.level is 'even'",
        "train.balance names 'evnt', no output",
        "train.augment.text: this card has no input 'text', and none of modality text",
        "fix: name an input or a modality of it: eye (image), ear (audio)",
        "train.augment.image: there is no augmentation 'flipp' of image",
        "did you mean 'flip'?",
        "there is no augmentation 'noise' of image",
        "why: it changes audio, not image",
        "train.augment.image.crop: unknown key 'lest'",
        "train.stages.1.epochs is 0",
        "train.stages.1 freezes everything: image, ear, fusion, head",
        "fix: leave one part out",
        "train.stages.2.freeze names 'eyes', no part",
        "train.epochs and stages are both given",
    ):
        assert words in told, words


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("fast", "'fast' is not a mapping"),
        ({"epoch": 3}, "unknown key 'epoch'(.|\n)*did you mean 'epochs'"),
        ({"epochs": "three"}, "train.epochs: 'three' is not a whole number"),
        ({"stages": {"epochs": 3}}, "train.stages: (.|\n)*is not a list"),
        ({"stages": [3]}, "train.stages.1: 3 is not a mapping"),
        ({"augment": {"eye": "flip"}}, "train.augment.eye is no list of augmentations"),
        ({"modality_dropout": {"eye": 1.0}}, "train.modality_dropout is {'eye': 1.0}"),
        ({"average": {"ema": {"decay": 1.0}}}, "train.average.ema.decay is 1.0"),
    ],
)
def test_what_cannot_be_read_is_named(section, words, tmp_path):
    assert re.search(words, mistakes(section, tmp_path))


def test_a_file_replaces_the_cards_options_one_by_one_and_its_length_as_a_whole():
    card = {"stages": [{"epochs": 2}], "batch_size": 8}
    assert train_section.over(card, {"epochs": 3}) == {"batch_size": 8, "epochs": 3}
    assert train_section.over(card, {"mixup": 0.2}) == {**card, "mixup": 0.2}


def test_a_file_that_is_not_there_or_no_yaml_is_an_error(tmp_path):
    with pytest.raises(CardError, match=r"cannot read .*absent\.yaml"):
        train_section.load(tmp_path / "absent.yaml", CARD)
    with pytest.raises(CardError, match="cannot read"):
        read("a: [", tmp_path)


def test_every_option_stands_in_the_document_with_its_default():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    for name in (*declared("Section"), *declared("Stage")):
        assert f"`{name}`" in text, f"docs/training.md does not name {name}"
    for kind in ("augmentations", "trackers"):
        from edgemm.contracts import plugins

        for name in plugins.names(kind):
            assert f"`{name}`" in text, f"docs/training.md does not name {name}"
