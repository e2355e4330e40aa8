"""A split in memory, or streamed when it is too big."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Output
from edgemm.data.dataset import open_dataset
from edgemm.data.in_memory import open_split, open_splits

CARD = cards.parse(
    {
        "factory": "own:build",
        "inputs": {"x": {"modality": "sensor", "shape": [4], "optional": True}},
        "outputs": {"kind": {"task": "classification", "labels": ["a", "b"]}},
    }
)


@pytest.fixture
def dataset(tmp_path):
    rows = ["split,x,kind", *(f"train,{'' if n % 10 == 9 else f'{n} 0 0 0'},{'ab'[n % 2]}" for n in range(150)), "val,1 2 3 4,a"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return open_dataset(tmp_path, CARD)


def joined(split, **options):
    batches = list(split.batches(64, **options))
    return {
        "x": np.concatenate([batch.inputs["x"] for batch in batches])[:, 0],
        "kind": np.concatenate([batch.truth["kind"] for batch in batches]),
        "present": np.concatenate([batch.present["x"] for batch in batches]),
        "rows": np.concatenate([batch.rows for batch in batches]),
    }


def test_a_split_in_memory_and_a_streamed_one_hold_the_same(dataset):
    notes: list[str] = []
    kept, streamed = open_split(dataset, "train"), open_split(dataset, "train", memory_bytes=100, note=notes.append)
    assert kept.arrays is not None
    assert streamed.arrays is None
    assert "they are read anew in every epoch" in notes[0]
    for name, array in joined(kept).items():
        assert np.array_equal(array, joined(streamed)[name]), name


def test_a_shuffle_is_the_same_for_the_same_seed_and_holds_every_row_once(dataset):
    split = open_split(dataset, "train")
    first, again, other = (joined(split, shuffle=seed) for seed in (1, 1, 2))
    assert np.array_equal(first["x"], again["x"])
    assert not np.array_equal(first["rows"], other["rows"])
    assert sorted(first["rows"]) == sorted(joined(split)["rows"])
    assert np.array_equal(first["kind"], joined(split)["kind"][first["rows"] - first["rows"].min()])


def test_a_split_that_is_not_there_has_no_rows(dataset):
    assert open_split(dataset, "test").rows == 0


def test_progress_counts_the_decoded_rows(dataset):
    seen = []
    open_split(dataset, "train", progress=lambda text, share: seen.append((text, share)))
    assert seen[-1] == ("decoding train", 1.0)


def test_rows_without_labels_come_in_batches_of_their_own(tmp_path):
    card = cards.parse(
        {
            "factory": "own:build",
            "inputs": {"x": {"modality": "sensor", "shape": [2]}},
            "outputs": {"level": {"task": "regression"}},
        }
    )
    for name, rows, labels in (("known", 10, True), ("unknown", 7, False)):
        (tmp_path / name).mkdir()
        x = np.full((rows, 2), float(rows), np.float32)
        np.savez(tmp_path / name / "train.npz", x=x, **({"level": np.arange(rows) * 2.0} if labels else {}))
        np.savez(tmp_path / name / "val.npz", x=x, **({"level": np.arange(rows) * 2.0} if labels else {}))
    bare = card.replace(outputs={"level": Output("level", "tensor")})
    splits = open_splits(open_dataset(tmp_path / "known", card), unlabeled=open_dataset(tmp_path / "unknown", bare))
    assert splits.means == {"level": 9.0}
    assert splits.deviations["level"] == np.std(np.arange(10) * 2.0)
    assert (splits.train.rows, splits.train.steps(4), splits.val.rows) == (17, 5, 10)
    for shuffle in (None, 1):
        batches = list(splits.train.batches(4, shuffle=shuffle))
        assert sorted(len(batch) for batch in batches) == [2, 3, 4, 4, 4]
        for batch in batches:
            known = bool(batch.truth)
            assert (batch.inputs["x"] == (10 if known else 7)).all()
            assert ((batch.rows >= 0) == known).all()
        assert sorted(row for batch in batches for row in batch.rows) == [*range(-7, 0), *range(10)]
    kinds = [[bool(batch.truth) for batch in splits.train.batches(4, shuffle=seed)] for seed in range(5)]
    assert len({tuple(order) for order in kinds}) > 1, "the two kinds take turns at random"
    assert kinds[0] == [bool(batch.truth) for batch in splits.train.batches(4, shuffle=0)]
