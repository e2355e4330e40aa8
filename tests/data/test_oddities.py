"""What is odd about a dataset is told by name; what is usual is not."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import open_dataset
from edgemm.data.oddities import oddities

CARD = {
    "factory": "m:f",
    "inputs": {"imu": {"modality": "sensor", "shape": [6]}, "image": {"modality": "image", "height": 4, "width": 4}},
    "outputs": {"event": {"task": "classification", "labels": ["a", "b", "c"]}, "load": {"task": "regression", "unit": "kg"}},
}
ROWS = {"train": 60, "val": 30, "test": 30}


def usual() -> dict[str, dict[str, np.ndarray]]:
    """Split -> arrays: noise in which the label shows a little."""
    rng, splits = np.random.default_rng(0), {}
    for split, count in ROWS.items():
        event = np.arange(count) % 3
        imu = rng.normal(0, 1, (count, 6)).astype(np.float32)
        imu[:, 0] += 4 * event
        image = rng.integers(0, 255, (count, 4, 4, 3)).astype(np.uint8)
        splits[split] = {"imu": imu, "image": image, "event": event, "load": rng.normal(0, 1, count).astype(np.float32)}
    return splits


def odd(folder: Path, splits: dict[str, dict[str, np.ndarray]], card: dict = CARD) -> list[str]:
    for split, arrays in splits.items():
        np.savez(folder / f"{split}.npz", **arrays)
    return oddities(open_dataset(folder, cards.parse(card)))


def test_nothing_is_said_of_usual_data(tmp_path):
    assert odd(tmp_path, usual()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t["imu"].__setitem__((..., 2), 7), "constant: 'imu', channel 2: the same value throughout train."),
        (
            lambda t: t["imu"].__setitem__((slice(None, None, 10), 1), 9999),
            "outlying: 'imu', channel 1 of 0 to 5: 6 of 60 values far out (9999)",
        ),
        (lambda t: t["imu"].__setitem__((..., 4), t["imu"][:, 3]), "duplicate: 'imu', channel 4 equals 'imu', channel 3 throughout train."),
        (lambda t: t["imu"].__setitem__((..., 5), t["event"]), "leaking: 'imu', channel 5 tells 'event' alone in train."),
        (lambda t: t["imu"].__setitem__((..., slice(3, 6)), np.eye(3)[t["event"]]), "leaking: 'imu', channel 3, 4, 5 tells 'event' alone"),
        (lambda t: t["imu"].__setitem__((..., 5), 2 * t["load"] + 1), "leaking: 'imu', channel 5 tells 'load' alone in train."),
        (lambda t: t["imu"].__setitem__((..., 5), 100 + np.arange(60)), "leaking: 'imu', channel 5 is another whole number in each row"),
        (lambda t: t["image"].__setitem__((..., 0, 0, 0), t["event"]), "leaking: 'image' at (0, 0, 0) tells 'event' alone in train."),
        (
            lambda t: [t[name].__setitem__(8, t[name][5]) for name in ("imu", "image")],
            "duplicate: 1 row of train with all inputs of another: rows 5",
        ),
        (lambda t: t["event"].__setitem__(..., 1), "constant: 'event' is 1 in every row of train."),
        (lambda t: t["event"].__setitem__(t["event"] == 2, 0), "unlabelled: no row of train has the label c of 'event'."),
        (lambda t: t.__setitem__("row_id", np.arange(60)), "unread: no input and no output of the card reads row_id."),
    ],
)
def test_what_is_odd_is_named(tmp_path, change, sentence):
    splits = usual()
    change(splits["train"])
    assert [text for text in odd(tmp_path, splits) if text.startswith(sentence)], odd(tmp_path, splits)


def test_rows_of_train_that_are_in_test_too_are_named(tmp_path):
    splits = usual()
    for name in ("imu", "image"):
        splits["test"][name][4] = splits["train"][name][9]
    assert odd(tmp_path, splits) == ["leaking: 1 row of test with the same inputs as a row of train: rows 4 (train 9)."]


def test_rows_without_a_label_and_files_in_two_splits_are_named_and_labels_in_names_of_files_are_nothing(tmp_path):
    pillow, rng = pytest.importorskip("PIL.Image"), np.random.default_rng(0)
    lines = ["split,image,event,id"]
    for number in range(60):
        name, label = f"{'cat' if number % 2 else 'dog'}{number}.png", ("dog", "cat")[number % 2]
        pillow.fromarray(rng.integers(0, 255, (4, 4, 3)).astype(np.uint8)).save(tmp_path / name)
        lines.append(f"{('train', 'train', 'val', 'test')[number // 15]},{name},{label if number != 7 else ''},{number}")
    lines[-1] = "test,dog2.png,cat,59"
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    card = {
        "factory": "m:f",
        "inputs": {"image": {"modality": "image", "height": 4, "width": 4}},
        "outputs": {"event": {"task": "classification", "labels": ["dog", "cat"]}},
    }
    assert oddities(open_dataset(tmp_path, cards.parse(card), skip_bad_rows=True)) == [
        "unread: no input and no output of the card reads id.",
        "unlabelled: 1 row of train without 'event': row 9.",
        "leaking: 1 row of test with the same inputs as a row of train: rows 61 (train 4).",
        f"unreadable: 1 row, the first: {tmp_path}/manifest.csv, row 9, column 'event': the cell is empty.",
    ]


def test_a_channel_of_a_time_series_is_looked_at_over_time(tmp_path):
    splits = usual()
    for arrays in splits.values():
        arrays["imu"] = np.random.default_rng(1).normal(size=(len(arrays["event"]), 12, 6)).astype(np.float32)
    splits["train"]["imu"][::15, 3, 1] = -999
    card = {**CARD, "inputs": {**CARD["inputs"], "imu": {"modality": "sensor", "shape": [12, 6]}}}
    assert [text.split(",")[:2] for text in odd(tmp_path, splits, card)] == [
        ["outlying: 'imu'", " channel 1 of 0 to 5: 4 of 720 values far out (-999)"]
    ]


@pytest.mark.parametrize("name", ["avdigits"])
def test_real_data_raises_no_false_alarm(unpacked, name):
    card = {
        "factory": "m:f",
        "inputs": {
            "image": {"modality": "image", "height": 28, "width": 28, "channels": 1},
            "audio": {"modality": "audio", "rate_hz": 8000, "seconds": 1.0},
        },
        "outputs": {"digit": {"task": "classification", "labels": [str(digit) for digit in range(10)]}},
    }
    assert oddities(open_dataset(unpacked(name, limit=60), cards.parse(card))) == []
