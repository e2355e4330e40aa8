"""Batches of train as a model sees them: deterministic, consistent with their truth, refused where they could not be."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.dataset import Batch
from edgemm.data.augmenting import Augmenter
from edgemm.errors import CardError, Mistakes

EYE = {"modality": "image", "height": 6, "width": 10}
PLAIN = {
    "factory": "own:build",
    "inputs": {"eye": EYE, "imu": {"modality": "sensor", "shape": [5, 2], "optional": True}},
    "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
}
DENSE = {
    "factory": "own:build",
    "inputs": {"eye": EYE},
    "outputs": {
        "things": {"task": "detection", "frame": "eye", "labels": ["a", "b"]},
        "ground": {"task": "segmentation", "frame": "eye", "labels": ["no", "yes"]},
    },
}
POSE = {"task": "keypoints", "frame": "eye", "labels": ["person"], "points": ["left", "right"]}


def augmenter(plain=PLAIN, **options) -> Augmenter:
    return Augmenter(cards.parse(plain), **{"augment": {}, **options})


def batch(rows=6, seed=0) -> Batch:
    rng = np.random.default_rng(seed)
    inputs = {"eye": rng.integers(0, 256, (rows, 6, 10, 3)).astype(np.uint8), "imu": rng.normal(size=(rows, 5, 2)).astype(np.float32)}
    present = np.arange(rows) % 3 != 0
    inputs["imu"][~present] = 0
    return Batch(inputs, {"event": np.arange(rows) % 2}, {"imu": present}, np.arange(rows))


ALL = {"eye": [["flip", {}], ["crop", {}], ["colour", {}]], "imu": [["jitter", {}], ["drop_channels", {}]]}


def test_an_epoch_of_a_seed_is_the_same_again_and_another_one_is_not():
    def seen(epoch, seed=0):
        return augmenter(augment=ALL, dropout=0.3, mixup=0.4, seed=seed).change(batch(), epoch, 2)

    first, again = seen(1), seen(1)
    assert all(np.array_equal(first.batch.inputs[name], again.batch.inputs[name]) for name in ("eye", "imu"))
    assert first.share == again.share
    assert not np.array_equal(first.batch.inputs["eye"], seen(2).batch.inputs["eye"])
    assert not np.array_equal(first.batch.inputs["eye"], seen(1, seed=1).batch.inputs["eye"])


def test_what_is_missing_stays_missing():
    given = batch()
    changed = augmenter(augment=ALL).augmented(given, 0, 0)
    assert (changed.inputs["imu"][~given.present["imu"]] == 0).all()
    assert not np.array_equal(changed.inputs["imu"], given.inputs["imu"])


def test_inputs_are_taken_away_and_one_always_stays():
    given = batch(400)
    changed = augmenter(dropout={"image": 0.9, "imu": 0.9}).change(given, 0, 0).batch
    no_eye, no_imu = (changed.inputs["eye"] == 0).all(axis=(1, 2, 3)), ~changed.present["imu"]
    assert not (no_eye & no_imu).any()
    assert no_eye.sum() > 100
    assert (no_imu & given.present["imu"]).sum() > 100
    assert not no_eye[~given.present["imu"]].any(), "the eye is all that such a row has"


def test_mixed_rows_are_between_two_and_their_truths_are_known():
    given = batch()
    changed = augmenter(mixup=1.0).change(given, 0, 0)
    assert 0 < changed.share < 1
    assert sorted(changed.other["event"]) == sorted(given.truth["event"])
    assert (changed.batch.inputs["eye"] >= given.inputs["eye"].min(0)).all()
    assert (changed.batch.inputs["eye"] <= given.inputs["eye"].max(0)).all()
    assert changed.batch.inputs["eye"].dtype == np.uint8


def test_boxes_and_masks_follow_a_flip():
    eye = np.zeros((1, 6, 10, 3), np.uint8)
    eye[0, 2:4, 1:4] = 255
    boxes = np.full((1, 3, 6), -1, np.float32)
    boxes[0, 0] = (1, 1, 2, 4, 4, 0)
    mask = (eye[..., 0] > 0).astype(np.uint8)
    given = Batch({"eye": eye}, {"things": boxes, "ground": mask}, {}, np.zeros(1, np.int64))
    changed = augmenter(DENSE, augment={"eye": [["flip", {"chance": 1.0}]]}).augmented(given, 0, 0)
    assert changed.truth["things"][0, 0].tolist() == [1, 6, 2, 9, 4, 0]
    assert (changed.truth["things"][0, 1:] == -1).all()
    assert np.array_equal(changed.truth["ground"], (changed.inputs["eye"][..., 0] > 0).astype(np.uint8))
    assert (changed.inputs["eye"][0, 2:4, 6:9] == 255).all()


def test_what_moves_things_otherwise_is_refused_where_an_output_says_where_they_are():
    with pytest.raises(Mistakes) as caught:
        augmenter(DENSE, augment={"eye": [["rotate", {}], ["crop", {}], ["erase", {}]]})
    told = caught.value.block()
    assert "train.augment.eye.rotate: outputs.things says where things are in 'eye'" in told
    assert "why: boxes follow a flip" in told
    assert "train.augment.eye.crop" in told
    assert "erase:" not in told
    with pytest.raises(CardError, match=r"eye\.flip: outputs\.pose(.|\n)*a left hand is a right one"):
        augmenter(DENSE | {"outputs": {"pose": POSE}}, augment={"eye": [["flip", {}]]})


@pytest.mark.parametrize(
    ("plain", "options", "words"),
    [
        (DENSE, {"mixup": 0.2}, "outputs.things has no truth that could be a part of two"),
        (DENSE, {"dropout": 0.2}, "takes inputs away, and this model has one"),
        (PLAIN | {"inputs": {"say": {"modality": "text", "length": 4, "vocab": 9}, "eye": EYE}}, {"mixup": 0.2}, "'say' consists of ids"),
        (PLAIN, {"augment": {"eye": [["crop", {"least": 2.0}]]}}, r"train\.augment\.eye\.crop: least is 2\.0"),
    ],
)
def test_what_cannot_be_done_to_a_card_is_an_error(plain, options, words):
    with pytest.raises(CardError, match=words):
        augmenter(plain, **options)


def test_the_steps_of_a_row_are_changed_alike():
    plain = PLAIN | {"inputs": {"eye": EYE | {"steps": 3}}}
    eye = np.repeat(batch().inputs["eye"][:, None], 3, axis=1)
    changed = augmenter(plain, augment={"eye": [["rotate", {}]]}).augmented(Batch({"eye": eye}, {}, {}, np.arange(6)), 0, 0)
    assert np.array_equal(changed.inputs["eye"][:, 0], changed.inputs["eye"][:, 2])
    assert not np.array_equal(changed.inputs["eye"], eye)


def test_words_are_left_out_and_what_follows_moves_up(tmp_path):
    from edgemm.contracts import augmentation as augmentations
    from edgemm.contracts.modality import modalities

    part = modalities(cards.parse(PLAIN | {"inputs": {"say": {"modality": "text", "length": 6, "vocab": 9}}}))["say"]
    ids = np.array([[2, 3, 4, 5, 0, 0], [2, 0, 0, 0, 0, 0]] * 50)
    short = augmentations.of("drop_words", {"share": 0.5}, "x").change(ids, np.random.default_rng(0), part).samples
    for before, after in zip(ids, short, strict=True):
        kept = after[after != 0].tolist()
        assert kept == [word for word in before if word in kept]
        assert kept
        assert (after[len(kept) :] == 0).all()
    assert 1.5 < (short[::2] != 0).sum(axis=1).mean() < 2.7
