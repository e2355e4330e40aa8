"""The generated scene set: same seed, same scenes; neither modality alone is enough."""

import csv

import numpy as np
import pytest

from edgemm.verbs._demo import scenes


def test_scenes_are_the_same_every_time():
    for first, again in zip(scenes.scenes("train", 5), scenes.scenes("train", 5), strict=True):
        assert first.event == again.event
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.audio, again.audio)


def test_splits_do_not_share_scenes():
    pictures = {split: {scene.image.tobytes() for scene in scenes.scenes(split, 20)} for split in scenes.COUNTS}
    assert not pictures["train"] & pictures["val"]
    assert not pictures["train"] & pictures["test"]


@pytest.mark.parametrize("picture", scenes.PICTURES)
@pytest.mark.parametrize("sound", scenes.SOUNDS)
def test_every_pair_has_an_event_and_can_be_made(picture, sound):
    rng = np.random.default_rng(0)
    image, audio = scenes.draw(picture, rng), scenes.synthesise(sound, rng)
    assert scenes.EVENTS[picture][sound] in scenes.LABELS
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    assert (audio.shape, audio.dtype) == ((16000,), np.float32)
    assert np.isfinite(audio).all()
    assert 0 < abs(audio).max() <= 1


def test_neither_modality_alone_can_be_right_more_than_so_often():
    assert scenes.ceiling("image") == pytest.approx(0.45)
    assert scenes.ceiling("audio") == pytest.approx(0.6)


def test_the_ceiling_holds_on_real_scenes():
    """The best guess from the picture's or the sound's true kind, which no model can beat, on 2000 scenes."""
    rng = np.random.default_rng(5)
    pairs = [(str(rng.choice(scenes.PICTURES)), str(rng.choice(scenes.SOUNDS))) for _ in range(2000)]
    for place, modality in ((0, "image"), (1, "audio")):
        groups: dict[str, list[str]] = {}
        for pair in pairs:
            groups.setdefault(pair[place], []).append(scenes.EVENTS[pair[0]][pair[1]])
        best = sum(max(map(events.count, set(events))) for events in groups.values()) / len(pairs)
        assert best == pytest.approx(scenes.ceiling(modality), abs=0.03)


def test_each_kind_of_sound_and_picture_differs_from_nothing():
    rng = np.random.default_rng(0)
    silence = np.mean([np.square(scenes.synthesise("silence", rng)).mean() for _ in range(5)])
    for sound in scenes.SOUNDS[1:]:
        assert np.mean([np.square(scenes.synthesise(sound, rng)).mean() for _ in range(5)]) > silence


def test_the_written_set_is_a_dataset_folder(porch):
    with (porch / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["split", "image", "audio", "event"]
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert all((porch / row["image"]).is_file() and (porch / row["audio"]).is_file() for row in rows)


def test_the_card_takes_what_the_scenes_are(porch):
    import yaml

    from edgemm.contracts.card_file import parse
    from edgemm.data.dataset import open_dataset
    from edgemm.verbs._demo.scenes import CARD, LABELS, scenes

    card = parse(yaml.safe_load(CARD))
    batch = next(iter(open_dataset(porch, card).batches("test", 4)))
    for row, scene in zip(range(4), scenes("test", 4), strict=True):
        np.testing.assert_array_equal(batch.inputs["image"][row], scene.image)
        np.testing.assert_allclose(batch.inputs["audio"][row], scene.audio, atol=2**-14)
        assert LABELS[batch.truth["event"][row]] == scene.event
