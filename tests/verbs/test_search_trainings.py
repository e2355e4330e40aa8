"""`search --train`: the best training by val, the same again, and what cannot be searched."""

import json

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import train_search
from edgemm.errors import CardError, EdgemmError, Mistakes
from edgemm.verbs.search import search
from tests.verbs.test_train_ways import own  # noqa: F401  (a user's folder)

pytest.importorskip("optuna")
SPACE = """
epochs: 1
batch_size: 16
search:
  sampler: {sampler}
  space:
    learning_rate: {{from: 1.0e-6, to: 0.1, log: true}}
    kwargs.width: [4, 16]
    modality_dropout.imu: [0.0, 0.3]
"""


def found(place, tmp_path, name="found", sampler="random", **options):
    config = tmp_path / "train.yaml"
    config.write_text(SPACE.format(sampler=sampler))
    return search(place / "model.yaml", train=True, data=place / "data", output=tmp_path / name, config=config, trials=3, **options)


def test_the_best_training_is_found_and_measured_on_test(own, tmp_path):  # noqa: F811
    done = found(own, tmp_path)
    tried = done.searched.trials
    assert [one.name for one in tried] == ["trial 0", "trial 1", "trial 2"]
    assert done.searched.front[0].best.points == min(one.points for one in tried)
    metrics = json.loads((done.best / "metrics.json").read_text())
    assert metrics["goodness"] == pytest.approx(1 - done.searched.front[0].best.points / 100)
    assert metrics["test"]["mood"]["n"] == 18
    width = done.searched.front[0].best.options["kwargs.width"]
    assert cards.load(done.best).kwargs["width"] == width
    assert sorted(path.name for path in done.folder.iterdir() if not path.name.startswith(".")) == [
        "best", "front.json", "report.html", "report.json", "study.journal", "study.log",
    ]  # fmt: skip
    assert "the best by val: trial" in str(done)
    again = found(own, tmp_path)
    assert again.searched.trials == tried
    assert [one.options for one in found(own, tmp_path, "other").searched.trials] == [one.options for one in tried]


def test_what_cannot_be_searched_is_told_before_any_training(own, tmp_path):  # noqa: F811
    card = cards.load(own / "wide.yaml")
    with pytest.raises(Mistakes) as caught:
        train_search.parse(
            {
                "search": {
                    "sampler": "best",
                    "space": {
                        "lerning_rate": [1, 2],
                        "kwargs.encoders.eye": [1],
                        "batch_size": [1, 16],
                        "epochs": {"from": 5, "to": 2},
                        "optimizer": ["adam", "adamx"],
                        "seed": [0, 1],
                    },
                }
            },
            card,
        )
    told = caught.value.block()
    for words in (
        "train.search.sampler: 'best' is no sampler",
        "'lerning_rate' is no option that can be searched",
        "did you mean 'learning_rate'?",
        "the card has no kwargs.encoders",
        "train.search.space.batch_size: train.batch_size is 1",
        ".epochs begins at 5 and ends at 2",
        "train.optimizer is 'adamx'",
        "'seed' is no option that can be searched",
    ):
        assert words in told, words
    with pytest.raises(CardError, match=r"there is nothing to search(.|\n)*fix: write search: \{space"):
        search(own / "model.yaml", train=True, data=own / "data", output=tmp_path / "none")
    with pytest.raises(EdgemmError, match=r"a search needs a recipe(.|\n)*--train"):
        search(own / "model.yaml", data=own / "data", output=tmp_path / "none")
    with pytest.raises(EdgemmError, match=r"workers is given with --train"):
        found(own, tmp_path, workers=2)


def test_all_that_cannot_be_trained_is_told_at_once(own, tmp_path):  # noqa: F811
    config = tmp_path / "train.yaml"
    config.write_text("epochs: 1\nsearch: {sampler: random, space: {kwargs.width: [4, -3, wide]}}\n")
    with pytest.raises(Mistakes) as caught:
        search(own / "model.yaml", train=True, data=own / "data", output=tmp_path / "found", config=config)
    told = caught.value.block()
    assert "train.search.space.kwargs.width: -3" in told
    assert "train.search.space.kwargs.width: 'wide'" in told
