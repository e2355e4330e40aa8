"""Folds: every row held out once, groups never parted, labels alike, too few rows refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.data.folds import folds_of, held_out
from edgemm.errors import DataError

CARD = cards.parse(
    {
        "factory": "own:build",
        "inputs": {"imu": {"modality": "sensor", "shape": [1]}},
        "outputs": {"event": {"task": "classification", "labels": ["a", "b", "c"]}},
    }
)


def data(folder: Path, rows: int = 60, *, speakers: int = 0, column: str = "group"):
    lines = [f"split,imu,event{f',{column}' if speakers else ''}"]
    for number in range(rows):
        split = "val" if number % 6 == 5 else "train"
        label = "aab"[number % 3] if number % 10 else "c"
        lines.append(f"{split},{number},{label}{f',s{number % speakers}' if speakers else ''}")
    lines += [f"test,{1000 + number},a{',x' if speakers else ''}" for number in range(5)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return open_dataset(folder, CARD)


def rows_of(dataset, split: str) -> list[float]:
    return [float(cell) for cell in dataset.cells(split, "imu")]


def test_every_row_of_train_and_val_is_held_out_once_and_test_never_seen(tmp_path):
    dataset = data(tmp_path)
    folds = folds_of(dataset, 5, seed=0)
    held = []
    for fold in range(5):
        parted = held_out(dataset, folds, fold)
        train, val, test = (rows_of(parted, split) for split in ("train", "val", "test"))
        assert sorted(train + val + test) == list(range(60))
        assert len(test) == 12
        assert 3 <= len(val) <= 7
        held += test
    assert sorted(held) == list(range(60))


def test_rows_of_both_splits_are_shuffled_together(tmp_path):
    dataset = data(tmp_path, 600)
    parted = held_out(dataset, folds_of(dataset, 5, seed=0), 0)
    drawn = [int(row.cells["imu"]) for row in parted.source.rows("train", rng=np.random.default_rng(0))]
    assert sorted(drawn) == sorted(rows_of(parted, "train"))
    from_val = [place for place, number in enumerate(drawn) if number % 6 == 5]
    halves = np.histogram(from_val, [0, len(drawn) // 2, len(drawn)])[0]
    assert halves.min() > len(from_val) / 3, "one split's rows come first"


def test_labels_are_spread_evenly_and_seeds_deal_otherwise(tmp_path):
    dataset = data(tmp_path)
    folds = folds_of(dataset, 5, seed=0)
    counts = [Counter(held_out(dataset, folds, fold).cells("test", "event")) for fold in range(5)]
    for label in "abc":
        assert max(count[label] for count in counts) - min(count[label] for count in counts) <= 1
    assert folds_of(dataset, 5, seed=0).place == folds.place
    assert folds_of(dataset, 5, seed=1).place != folds.place


@pytest.mark.parametrize("column", ["group", "speaker"])
def test_a_group_is_on_one_side_only(tmp_path, column):
    dataset = data(tmp_path, speakers=7, column=column)
    folds = folds_of(dataset, 3, seed=0, group=None if column == "group" else column)
    assert folds.group == column
    for fold in range(3):
        parted = held_out(dataset, folds, fold)
        speakers = {split: {row.cells[column] for row in parted.source.rows(split)} for split in ("train", "val", "test")}
        assert not speakers["test"] & (speakers["train"] | speakers["val"])
        assert not speakers["train"] & speakers["val"]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (60, {"count": 1}, "there is to be 1 fold"),
        (
            8,
            {"count": 5},
            r"a fold would have fewer rows than there are labels(.|\n)*8 rows(.|\n)*3 labels(.|\n)*at most 2 folds",
        ),
        (4, {"count": 2}, r"fix: add rows"),
        (60, {"count": 5, "group": "speker"}, r"no column 'speker' to group by(.|\n)*did you mean 'speaker'"),
        (60, {"count": 5, "group": "speaker"}, r"5 folds need as many groups(.|\n)*'speaker' has 4 different(.|\n)*at most 4 folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path, rows, options, words):
    dataset = data(tmp_path, rows, speakers=4, column="speaker")
    with pytest.raises(DataError, match=words):
        folds_of(dataset, seed=0, **options)
