"""The dataset: every kind of source, every kind of cell, what is chosen, what is refused, and how much memory it takes."""

import csv
import io
import itertools
import json
import os
import shutil
import sys
import threading
import time
import tracemalloc

import numpy as np
import pyarrow
import pytest
import soundfile
from PIL import Image
from pyarrow import parquet

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import find_labels, open_dataset, present_samples, synthetic
from edgemm.data.modalities.sensor import statistics
from edgemm.errors import CardError, DataError, MissingExtra

INPUTS = {
    "image": {"modality": "image", "height": 4, "width": 4, "channels": 1},
    "audio": {"modality": "audio", "rate_hz": 8000, "seconds": 0.01},
    "imu": {"modality": "sensor", "shape": [3]},
}
OUTPUTS = {"event": {"task": "classification", "labels": ["quiet", "glass", "person"]}, "level": {"task": "regression", "unit": "dB"}}


def make_card(inputs=INPUTS, outputs=OUTPUTS, **more):
    return cards.parse({"factory": "a:b", "inputs": inputs, "outputs": outputs} | more)


SENSOR = make_card({"imu": INPUTS["imu"]}, {"level": OUTPUTS["level"]})
IDS = make_card({"text": {"modality": "text", "length": 3, "vocab": 10}}, {"event": OUTPUTS["event"]})


def write_csv(folder, rows, name="manifest.csv"):
    """Rows as dicts, in the order of the first one's columns."""
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def sensor_rows(count, split="train", first=0):
    return [{"split": split, "imu": f"{number} {number + 1} {number + 2}", "level": number % 7} for number in range(first, first + count)]


def sensor_folder(folder, **counts):
    starts = itertools.accumulate(counts.values(), initial=0)
    return write_csv(
        folder, [row for (split, count), first in zip(counts.items(), starts, strict=False) for row in sensor_rows(count, split, first)]
    )


@pytest.fixture
def porchlike(tmp_path):
    """Six scenes with a picture, a sound and a sensor each."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        Image.fromarray(np.full((4, 4), number * 10, np.uint8)).save(tmp_path / f"{number}.png")
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, 80), 8000)
        split, event = ("train", "train", "train", "train", "val", "test")[number], ("quiet", "glass", "person")[number % 3]
        rows.append(
            {"split": split, "image": f"{number}.png", "audio": f"{number}.wav", "imu": "1 2 3", "event": event, "level": number / 2}
        )
    return write_csv(tmp_path, rows)


def seen(dataset, split, **options):
    """First sensor value of each row: what a sensor folder's rows are told apart by."""
    return [int(value) for batch in dataset.batches(split, 7, **options) for value in batch.inputs["imu"][:, 0]]


# --- sources


def test_a_batch_holds_what_the_graph_takes_and_what_the_heads_should_say(porchlike):
    dataset = open_dataset(porchlike, make_card())
    assert dataset.splits() == ["train", "val", "test"]
    assert [dataset.count(split) for split in ("train", "val", "test", "calib")] == [4, 1, 1, 0]
    first, second = dataset.batches("train", 3)
    assert {name: (value.shape, str(value.dtype)) for name, value in first.inputs.items()} == {
        "image": ((3, 4, 4, 1), "uint8"),
        "audio": ((3, 80), "float32"),
        "imu": ((3, 3), "float32"),
    }
    assert first.inputs["image"][:, 0, 0, 0].tolist() == [0, 10, 20]
    assert first.truth["event"].tolist() == [0, 1, 2]
    assert first.truth["event"].dtype == np.int64
    assert first.truth["level"].tolist() == [0.0, 0.5, 1.0]
    assert first.truth["level"].dtype == np.float32
    assert first.rows.tolist() == [2, 3, 4]
    assert (len(first), len(second)) == (3, 1)
    assert first.present == {}


def test_csv_jsonl_and_parquet_say_the_same(porchlike, tmp_path_factory):
    card = make_card()
    (want,) = open_dataset(porchlike, card).batches("train", 4)
    with (porchlike / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (porchlike / "manifest.csv").unlink()
    typed = [row | {"level": float(row["level"]), "imu": [1.0, 2.0, 3.0]} for row in rows]
    (porchlike / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in typed) + "\n")
    parquet.write_table(pyarrow.Table.from_pylist(typed), porchlike / "other.parquet")
    for source in (porchlike, porchlike / "other.parquet"):
        (got,) = open_dataset(source, card).batches("train", 4)
        for name, value in (want.inputs | want.truth).items():
            np.testing.assert_array_equal((got.inputs | got.truth)[name], value)


def test_a_manifest_may_be_named_itself_and_two_of_them_are_an_error(tmp_path):
    sensor_folder(tmp_path, train=3, val=1)
    assert open_dataset(tmp_path / "manifest.csv", SENSOR).count("train") == 3
    (tmp_path / "manifest.jsonl").write_text('{"split": "train"}\n')
    with pytest.raises(DataError, match=r"has manifest\.csv and manifest\.jsonl\.\n  why: a dataset has one manifest"):
        open_dataset(tmp_path, SENSOR)


def test_csv_may_have_quotes_line_breaks_blank_lines_crlf_and_a_byte_order_mark(tmp_path):
    text = '\ufeffsplit, text ,event\r\ntrain,"[1, 2]",quiet\r\n\r\n"train","[3,\r\n4]","glass"\r\nval,[5],person\r\n'
    (tmp_path / "manifest.csv").write_bytes(text.encode())
    card = make_card({"text": {"modality": "tensor", "dtype": "int64", "shape": ["batch", 2]}}, {"event": OUTPUTS["event"]})
    (batch,) = open_dataset(tmp_path, card).batches("train", 4)
    assert batch.inputs["text"].tolist() == [[1, 2], [3, 4]]
    assert batch.rows.tolist() == [2, 4]


def test_rows_of_a_long_manifest_with_multi_line_cells_are_all_found(tmp_path):
    rows = [{"split": ("train", "val", "test")[n % 3], "imu": f"{n}\n{n}\n{n}" if n % 5 else f"{n} 0 0", "level": n} for n in range(1000)]
    dataset = open_dataset(write_csv(tmp_path, rows), SENSOR)
    for place, split in enumerate(("train", "val", "test")):
        assert seen(dataset, split) == list(range(place, 1000, 3))
        assert sorted(seen(dataset, split, shuffle=1)) == list(range(place, 1000, 3))


def test_a_cell_longer_than_csvs_own_limit_is_read(tmp_path):
    card = make_card({"imu": {"modality": "sensor", "shape": [30000]}}, {"level": OUTPUTS["level"]})
    write_csv(tmp_path, [{"split": split, "imu": " ".join(["1.25"] * 30000), "level": 1} for split in ("train", "val")])
    assert next(open_dataset(tmp_path, card).batches("train", 1)).inputs["imu"].sum() == 37500


@pytest.mark.parametrize("compressed", [False, True])
def test_a_folder_of_npz_files_holds_what_the_graph_takes(tmp_path, compressed):
    save = np.savez_compressed if compressed else np.savez
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    for split, count in (("train", 5), ("test", 2)):
        save(tmp_path / f"{split}.npz", image=pictures[:count], event=np.array(["quiet", "glass", "person", "quiet", "glass"])[:count])
    card = make_card({"image": INPUTS["image"]}, {"event": OUTPUTS["event"]})
    dataset = open_dataset(tmp_path, card)
    assert {split: dataset.count(split) for split in dataset.splits()} == {"train": 4, "val": 1, "test": 2}
    (batch,) = dataset.batches("test", 4)
    np.testing.assert_array_equal(batch.inputs["image"], pictures[:2])
    assert batch.truth["event"].tolist() == [0, 1]
    rows = [int(row) for split in ("train", "val") for b in dataset.batches(split, 4, shuffle=1) for row in b.rows]
    assert sorted(rows) == [0, 1, 2, 3, 4]


def test_npz_arrays_in_column_order_are_read_right(tmp_path):
    values = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    np.savez(tmp_path / "train.npz", imu=values, level=np.arange(4))
    np.savez(tmp_path / "val.npz", imu=values, level=np.arange(4))
    np.testing.assert_array_equal(next(open_dataset(tmp_path, SENSOR).batches("train", 4)).inputs["imu"], values)


def test_texts_in_npz_may_be_strings_or_ids(tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    (tmp_path / "tokenizer.json").write_text(build_vocabulary(["red green"], 10))
    card = cards.parse(
        {
            "factory": "a:b",
            "inputs": {"text": {"modality": "text", "length": 3, "tokenizer": str(tmp_path / "tokenizer.json")}},
            "outputs": {"event": OUTPUTS["event"]},
        }
    )
    np.savez(tmp_path / "train.npz", text=np.array(["red", "green red", ""]), event=np.array([0, 1, 2]))
    np.savez(tmp_path / "val.npz", text=np.array([[2, 3, 0], [3, 2, 0]]), event=np.array([0, 1]))
    dataset = open_dataset(tmp_path, card)
    assert next(dataset.batches("train", 3)).inputs["text"].tolist() == [[3, 0, 0], [2, 3, 0], [1, 0, 0]]
    assert next(dataset.batches("val", 3)).inputs["text"].tolist() == [[2, 3, 0], [3, 2, 0]]


def tensor_card(**inputs):
    return cards.parse({"model": "m.onnx", "inputs": inputs, "outputs": {"y": {"task": "tensor"}, "stateN": {"task": "tensor"}}})


def test_one_npz_of_input_names_serves_every_split_of_a_model_without_labels(tmp_path):
    card = tensor_card(
        input={"modality": "tensor", "dtype": "float32", "shape": ["batch", 4]},
        state={"modality": "tensor", "dtype": "float32", "shape": [2, "batch", 3], "state": "stateN"},
        sr={"modality": "tensor", "dtype": "int64", "shape": [], "value": 16000},
    )
    values = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", input=values)
    dataset = open_dataset(tmp_path / "samples.npz", card)
    assert dataset.splits() == ["train", "val", "test", "calib"]
    (batch,) = dataset.batches("test", 8)
    np.testing.assert_array_equal(batch.inputs["input"], values)
    assert batch.inputs["state"].shape == (2, 5, 3)
    assert batch.inputs["sr"].shape == ()
    assert batch.inputs["sr"] == 16000
    assert len(list(dataset.calibration(300))) == 5


def test_states_and_constants_in_the_npz_are_used(tmp_path):
    card = tensor_card(
        state={"modality": "tensor", "dtype": "float32", "shape": [2, "batch", 3], "state": "stateN"},
        sr={"modality": "tensor", "dtype": "int64", "shape": []},
    )
    np.savez(tmp_path / "samples.npz", state=np.arange(12, dtype=np.float32).reshape(2, 2, 3), sr=np.array(8000))
    batches = list(open_dataset(tmp_path / "samples.npz", card).batches("test", 8))
    assert [len(batch) for batch in batches] == [1, 1]  # sr has no batch axis: the graph takes one sample a call
    np.testing.assert_array_equal(batches[1].inputs["state"][:, 0], [[6, 7, 8], [9, 10, 11]])
    assert batches[0].inputs["sr"] == 8000


def test_a_labelled_npz_file_needs_to_say_which_rows_are_for_what(tmp_path):
    np.savez(tmp_path / "all.npz", imu=np.zeros((4, 3)), level=np.arange(4))
    with pytest.raises(DataError, match=r"all\.npz does not say which rows are train, val and test\.\n  why: it has no array 'split'"):
        open_dataset(tmp_path / "all.npz", SENSOR)
    np.savez(tmp_path / "all.npz", imu=np.zeros((4, 3)), level=np.arange(4), split=np.array(["train", "train", "val", "test"]))
    dataset = open_dataset(tmp_path / "all.npz", SENSOR)
    assert [dataset.count(split) for split in ("train", "val", "test")] == [2, 1, 1]
    assert next(dataset.batches("test", 4)).truth["level"].tolist() == [3]
    np.savez(tmp_path / "all.npz", imu=np.zeros((1, 3)), level=np.arange(1), split=np.array(["dev"]))
    with pytest.raises(DataError, match="row 0, column 'split': 'dev' is no split"):
        open_dataset(tmp_path / "all.npz", SENSOR)


def test_npz_files_that_cannot_be_used_say_why(tmp_path):
    np.savez(tmp_path / "a.npz", imu=np.zeros((4, 3)), level=np.arange(3))
    np.savez(tmp_path / "b.npz", imu=np.array([{}], object), level=np.arange(1))
    (tmp_path / "c.npz").write_text("no archive")
    for name, words in (
        ("a.npz", "its arrays differ in length: 'imu' 4, 'level' 3"),
        ("b.npz", "b.npz' is no readable .npz file.\n  why: 'imu.npy' holds Python objects"),
        ("c.npz", "c.npz' is no readable .npz file"),
    ):
        with pytest.raises(DataError, match=words):
            open_dataset(tmp_path / name, SENSOR)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(source)``: a Python file beside the card; returns its name."""
    made = []

    def make(source):
        name = f"rows_{len(made)}_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    monkeypatch.chdir(tmp_path)
    yield make
    for name in made:
        sys.modules.pop(name, None)


FUNCTION = """
import numpy as np

def rows(split):
    counts = {"train": 40, "test": 3}
    for number in range(counts[split]):
        yield {"imu": np.full(3, number, np.float32), "level": number}
"""


def test_a_function_yields_dicts_of_arrays(module):
    dataset = open_dataset(f"{module(FUNCTION)}:rows", SENSOR)
    assert dataset.splits() == ["train", "val", "test"]
    assert seen(dataset, "test") == [0, 1, 2]
    train, val = seen(dataset, "train"), seen(dataset, "val")
    assert sorted(train + val) == list(range(40))
    assert 1 <= len(val) <= 10
    assert sorted(seen(dataset, "train", shuffle=3)) == train != seen(dataset, "train", shuffle=3)
    with pytest.raises(DataError, match=r"split 'calib' has no rows\.\n  why: KeyError: 'calib'"):
        dataset.batches("calib", 2)


def test_a_functions_fingerprint_follows_its_source(module, tmp_path):
    name = module(FUNCTION)
    before = open_dataset(f"{name}:rows", SENSOR).fingerprint()
    assert before == open_dataset(f"{name}:rows", SENSOR).fingerprint()
    (tmp_path / f"{name}.py").write_text(FUNCTION + "# changed\n")
    assert before != open_dataset(f"{name}:rows", SENSOR).fingerprint()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def rows(split): yield 3", "row 0: a int, not a dict"),
        ("def rows(split): return []", "yields no rows for any of train, val, test, calib"),
        ("def rows(split): raise ValueError('no disk')", "yields no rows for any of .*\n  why: train: ValueError: no disk"),
        ("def rows(split): return [{'imu': [1, 2, 3], 'level': 1}, 1 / 0][:1]", "failed at row 0.\n  why: ZeroDivisionError"),
        ("def rows(split):\n  yield {'imu': [1, 2, 3], 'level': 1}\n  raise KeyError('x')", "failed at row 1.\n  why: KeyError"),
        ("def lines(split): return []", "has no function 'rows'"),
        ("import nowhere_at_all", "needs the module 'nowhere_at_all'"),
        ("1 / 0", "cannot be imported.\n  why: ZeroDivisionError"),
    ],
)
def test_functions_that_fail_say_where(module, source, words):
    with pytest.raises(DataError, match=words):
        open_dataset(f"{module(source)}:rows", SENSOR).count("train")


def test_data_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for data, words in (
        (tmp_path / "gone", "gone' is no dataset.\n  why: there is no such file or folder"),
        (tmp_path / "data.txt", "the file is neither .csv, .tsv, .jsonl, .json, .parquet nor .npz"),
        (tmp_path / "empty", "empty' is no dataset.\n  why: it has none of manifest.csv"),
        ("https://host/data.csv", "host/data.csv' is no dataset.\n  why: it is an address, and nothing is fetched"),
        ("no_such_module:rows", "there is no module 'no_such_module' for the data 'no_such_module:rows'"),
    ):
        with pytest.raises(DataError, match=words):
            open_dataset(data, SENSOR)


def test_synthetic_samples_follow_the_seed_and_have_no_targets():
    card = make_card({"image": INPUTS["image"] | {"steps": 2}, "audio": INPUTS["audio"]})
    first, again, other = (next(synthetic(card, samples=5, seed=seed).batches("test", 8)) for seed in (1, 1, 2))
    assert first.inputs["image"].shape == (5, 2, 4, 4, 1)
    assert first.truth == {}
    np.testing.assert_array_equal(first.inputs["audio"], again.inputs["audio"])
    assert (first.inputs["audio"] != other.inputs["audio"]).any()


# --- splits, order, limits


def test_without_val_a_tenth_of_train_is_chosen_by_the_rows_content(tmp_path):
    dataset = open_dataset(sensor_folder(tmp_path, train=1000, test=10), SENSOR)
    train, val = seen(dataset, "train"), seen(dataset, "val")
    assert sorted(train + val) == list(range(1000))
    assert 70 <= len(val) <= 130
    assert (dataset.count("train"), dataset.count("val")) == (len(train), len(val))
    rows = sensor_rows(1000)[::-1] + sensor_rows(10, "test", 1000)
    assert sorted(seen(open_dataset(write_csv(tmp_path, rows), SENSOR), "val")) == val  # order and place do not matter


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_a_few_rows_one_becomes_val(tmp_path, count):
    dataset = open_dataset(sensor_folder(tmp_path, train=count), SENSOR)
    assert (dataset.count("train"), dataset.count("val")) == (count - 1, 1)
    assert sorted(seen(dataset, "train") + seen(dataset, "val")) == list(range(count))


def test_parquet_derives_val_too(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(sensor_rows(300)), tmp_path / "manifest.parquet", row_group_size=70)
    dataset = open_dataset(tmp_path, SENSOR)
    train, val = seen(dataset, "train"), seen(dataset, "val")
    assert sorted(train + val) == list(range(300))
    assert 10 <= len(val) <= 60
    assert sorted(seen(dataset, "train", shuffle=0)) == train


def test_shuffling_is_complete_follows_the_seed_and_does_not_keep_neighbours(tmp_path):
    dataset = open_dataset(sensor_folder(tmp_path, train=20000, val=1), SENSOR)
    order = seen(dataset, "train", shuffle=1)
    assert sorted(order) == list(range(20000))
    assert order == seen(dataset, "train", shuffle=1) != seen(dataset, "train", shuffle=2)
    assert 0.4 < np.mean(np.array(order[:4000]) < 10000) < 0.6
    assert np.abs(np.diff(order)).mean() > 2000


def test_no_more_samples_than_the_limit_are_read(tmp_path):
    dataset = open_dataset(sensor_folder(tmp_path, train=20, val=1), SENSOR)
    assert [len(batch) for batch in dataset.batches("train", 8, limit=10)] == [8, 2]
    assert list(dataset.batches("train", 8, limit=0)) == []


def test_a_dataset_can_be_read_again_and_again(tmp_path):
    dataset = open_dataset(sensor_folder(tmp_path, train=20, val=1), SENSOR)
    assert seen(dataset, "train") == seen(dataset, "train") == list(range(20))


# --- outputs


def one_target(tmp_path, cell, output):
    card = make_card({"imu": INPUTS["imu"]}, {"y": output})
    write_csv(tmp_path, [{"split": split, "imu": "1 2 3", "y": cell} for split in ("train", "val")])
    return next(open_dataset(tmp_path, card).batches("train", 1)).truth["y"][0]


LABELS = {"labels": ["quiet", "glass", "person"]}


@pytest.mark.parametrize(
    ("cell", "output", "want"),
    [
        ("person", {"task": "classification", **LABELS}, 2),
        ("1", {"task": "classification", **LABELS}, 1),
        (" glass ", {"task": "classification", **LABELS}, 1),
        ("7", {"task": "classification", "labels": [7, 8]}, 0),
        ("quiet|person", {"task": "multilabel", **LABELS}, [1, 0, 1]),
        ("0|1", {"task": "multilabel", **LABELS}, [1, 1, 0]),
        ("", {"task": "multilabel", **LABELS}, [0, 0, 0]),
        ("61.5", {"task": "regression"}, 61.5),
        ("1.5 -2 3e1", {"task": "regression"}, [1.5, -2, 30]),
        ("[1.5, 2]", {"task": "regression"}, [1.5, 2]),
        ("quiet|quiet|glass", {"task": "classification", "per_step": True, **LABELS}, [0, 0, 1]),
        ("quiet;quiet|glass", {"task": "multilabel", "per_step": True, **LABELS}, [[1, 0, 0], [1, 1, 0]]),
        ("1|2.5", {"task": "regression", "per_step": True}, [1, 2.5]),
    ],
)
def test_targets_are_read_by_task(tmp_path, cell, output, want):
    np.testing.assert_array_equal(one_target(tmp_path, cell, output), want)


@pytest.mark.parametrize(
    ("cell", "output", "words"),
    [
        ("cat", {"task": "classification", **LABELS}, "label 'cat' is not in the card.\n  why: outputs.y.labels: quiet, glass, person."),
        ("glas", {"task": "classification", **LABELS}, "did you mean 'glass'"),
        ("3", {"task": "classification", **LABELS}, "label '3' is not in the card"),
        ("0", {"task": "classification", "labels": [7, 8]}, "label '0' is not in the card"),
        ("", {"task": "classification", **LABELS}, "the cell is empty"),
        ("quiet|cat", {"task": "multilabel", **LABELS}, "label 'cat' is not in the card"),
        ("loud", {"task": "regression"}, "'loud' is no number"),
        ("nan", {"task": "regression"}, "the value is nan"),
        ("", {"task": "regression"}, "the cell is empty"),
        ("", {"task": "classification", "per_step": True, **LABELS}, "the cell is empty"),
    ],
)
def test_targets_that_cannot_be_are_errors_with_file_row_and_column(tmp_path, cell, output, words):
    with pytest.raises(DataError, match=words) as caught:
        one_target(tmp_path, cell, output)
    assert str(caught.value).startswith(f"{tmp_path}/manifest.csv, row 2, column 'y': ")


def test_embeddings_and_tensors_have_no_target_and_need_no_column(tmp_path):
    card = make_card({"imu": INPUTS["imu"]}, {"left": {"task": "embedding"}, "right": {"task": "tensor"}})
    write_csv(tmp_path, [{"split": "train", "imu": "1 2 3"}, {"split": "val", "imu": "1 2 3"}])
    assert next(open_dataset(tmp_path, card).batches("train", 1)).truth == {}


def test_rows_with_unequal_targets_cannot_be_one_batch(tmp_path):
    rows = [{"split": "train", "imu": "1 2 3", "level": level} for level in ("1 2", "1 2 3")] + sensor_rows(1, "val")
    with pytest.raises(DataError, match=r"row 3, column 'level': its shape is \(3,\), that of row 2 \(2,\)"):
        list(open_dataset(write_csv(tmp_path, rows), SENSOR).batches("train", 2))


def test_labels_are_found_in_the_train_split_sorted_as_words_or_numbers(tmp_path):
    outputs = {"word": {"task": "classification"}, "digit": {"task": "classification"}, "tags": {"task": "multilabel"}}
    outputs |= {"step": {"task": "classification", "per_step": True}, "given": {"task": "classification", "labels": ["z", "a"]}}
    cells = [("b", "10", "x|y", "u|v", "z"), ("a", "9", "", "v|v", "a"), ("b", "2", "w", "u|u", "a")]
    rows = [{"split": "train", "imu": "1 2 3"} | dict(zip(outputs, row, strict=True)) for row in cells]
    rows.append(rows[0] | {"split": "val", "word": "c"})
    card = find_labels(write_csv(tmp_path, rows), make_card({"imu": INPUTS["imu"]}, outputs))
    assert {name: output.labels for name, output in card.outputs.items()} == {
        "word": ("a", "b"), "digit": ("2", "9", "10"), "tags": ("w", "x", "y"), "step": ("u", "v"), "given": ("z", "a"),
    }  # fmt: skip
    with pytest.raises(DataError, match=r"row 5, column 'word': label 'c' is not in the card"):
        list(open_dataset(tmp_path, card).batches("val", 1))


def test_labels_that_are_missing_or_measurements_are_errors(tmp_path):
    card = make_card({"imu": INPUTS["imu"]}, {"level": {"task": "classification"}})
    write_csv(tmp_path, sensor_rows(3) + sensor_rows(1, "val"))
    with pytest.raises(DataError, match="output 'level' has no labels yet"):
        list(open_dataset(tmp_path, card).batches("train", 1))
    write_csv(tmp_path, [row | {"level": number / 7} for number, row in enumerate(sensor_rows(10002))] + sensor_rows(1, "val"))
    with pytest.raises(DataError, match=r"more than 10000 different values\.\n  why: those are measurements"):
        find_labels(tmp_path, card)
    write_csv(tmp_path, [row | {"level": ""} for row in sensor_rows(3)] + sensor_rows(1, "val"))
    with pytest.raises(DataError, match="no row of split 'train' has a label for 'level'"):
        find_labels(tmp_path, card)


# --- inputs: columns, steps, missing ones


def test_columns_map_dataset_columns_to_card_names(tmp_path):
    write_csv(tmp_path, [{"split": split, "accelerometer": "1 2 3", "loudness": 4} for split in ("train", "val")])
    card = make_card({"imu": INPUTS["imu"]}, {"level": OUTPUTS["level"]}, columns={"accelerometer": "imu", "loudness": "level"})
    batch = next(open_dataset(tmp_path, card).batches("train", 1))
    assert batch.inputs["imu"].tolist() == [[1, 2, 3]]
    assert batch.truth["level"].tolist() == [4]


MAPPED = make_card({"imu": INPUTS["imu"]}, {"level": OUTPUTS["level"]}, columns={"accelerometer": "imu", "loudness": "level"})
OWN_NAMES = [{"split": split, "imu": [1.0, 2.0, 3.0], "level": 4.0} for split in ("train", "val")]


def _in_own_names(folder, kind, monkeypatch):
    """The rows keyed by the card's names, in one form of dataset."""
    if kind == "csv":
        return write_csv(folder, [row | {"imu": "1 2 3"} for row in OWN_NAMES])
    if kind == "jsonl":
        (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OWN_NAMES))
        return folder
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(OWN_NAMES), folder / "manifest.parquet")
        return folder
    if kind == "npz":
        for split in ("train", "val"):
            np.savez(folder / f"{split}.npz", imu=np.array([[1.0, 2, 3]], np.float32), level=np.array([4.0], np.float32))
        return folder
    (folder / "rows_by_own_names.py").write_text(f"def rows(split):\n    return [row for row in {OWN_NAMES} if row['split'] == split]\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "rows_by_own_names", raising=False)
    return "rows_by_own_names:rows"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "npz", "callable"])
def test_data_keyed_by_the_cards_own_names_are_read_though_the_card_maps_columns(tmp_path, monkeypatch, kind):
    dataset = open_dataset(_in_own_names(tmp_path, kind, monkeypatch), MAPPED)
    batch = next(dataset.batches("train", 1))
    assert batch.inputs["imu"].tolist() == [[1, 2, 3]]
    assert batch.truth["level"].tolist() == [4]


def test_the_mapped_column_comes_before_one_of_the_cards_own_name(tmp_path):
    write_csv(tmp_path, [{"split": split, "imu": "9 9 9", "accelerometer": "1 2 3", "level": 4} for split in ("train", "val")])
    assert next(open_dataset(tmp_path, MAPPED).batches("train", 1)).inputs["imu"].tolist() == [[1, 2, 3]]


def test_a_column_that_the_card_maps_elsewhere_is_not_taken_for_anothers(tmp_path):
    inputs = {"left": INPUTS["imu"], "right": INPUTS["imu"]}
    card = make_card(inputs, {"level": OUTPUTS["level"]}, columns={"left": "right", "right": "left"})
    write_csv(tmp_path, [{"split": split, "left": "1 2 3", "level": 4} for split in ("train", "val")])
    with pytest.raises(DataError, match="there is no column 'right'"):
        open_dataset(tmp_path, card)


def test_labels_are_found_in_a_column_of_the_outputs_own_name(tmp_path):
    write_csv(tmp_path, [{"split": split, "imu": "1 2 3", "event": event} for split in ("train", "val") for event in ("quiet", "glass")])
    card = make_card({"imu": INPUTS["imu"]}, {"event": {"task": "classification"}}, columns={"what": "event"})
    assert find_labels(tmp_path, card).outputs["event"].labels == ("glass", "quiet")


@pytest.mark.parametrize("cell", ["0.png|1.png", ["0.png", "1.png"], "pictures.npy"])
def test_an_input_with_steps_takes_several_values_a_row(tmp_path, cell):
    for number in range(2):
        Image.fromarray(np.full((4, 4), number + 1, np.uint8)).save(tmp_path / f"{number}.png")
    np.save(tmp_path / "pictures.npy", np.stack([np.full((4, 4), number + 1, np.uint8) for number in range(2)]))
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps({"split": split, "image": cell}) + "\n" for split in ("train", "val")))
    card = make_card({"image": INPUTS["image"] | {"steps": 2}}, {"y": {"task": "embedding"}})
    (batch,) = open_dataset(tmp_path, card).batches("train", 2)
    assert batch.inputs["image"].shape == (1, 2, 4, 4, 1)
    assert batch.inputs["image"][0, :, 0, 0, 0].tolist() == [1, 2]


def test_another_number_of_steps_is_an_error(tmp_path):
    write_csv(tmp_path, [{"split": split, "imu": "1 2 3|4 5 6", "level": 1} for split in ("train", "val")])
    card = make_card({"imu": INPUTS["imu"] | {"steps": 3}}, {"level": OUTPUTS["level"]})
    with pytest.raises(DataError, match=r"row 2, column 'imu': it holds 2 steps, the card says 3\."):
        next(open_dataset(tmp_path, card).batches("train", 1))


def test_an_optional_input_may_be_empty_or_have_no_column(tmp_path):
    card = make_card(
        {
            "imu": INPUTS["imu"] | {"optional": True},
            "text": {"modality": "text", "length": 2, "vocab": 9, "pad": 7, "optional": True, "steps": 2},
        },
        {"level": OUTPUTS["level"]},
    )
    lines = [{"split": "train", "imu": imu, "level": 1} for imu in ("1 2 3", "", None)] + [{"split": "val", "level": 1}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (batch,) = open_dataset(tmp_path, card).batches("train", 3)
    assert batch.present["imu"].tolist() == [True, False, False]
    assert batch.inputs["imu"].tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert batch.present["text"].tolist() == [False] * 3
    assert batch.inputs["text"].tolist() == [[[7, 7]] * 2] * 3


def test_an_empty_cell_of_an_input_that_is_not_optional_is_an_error(tmp_path):
    write_csv(tmp_path, [{"split": "train", "imu": "", "level": 1}, *sensor_rows(1, "val")])
    with pytest.raises(DataError, match=r"row 2, column 'imu': the cell is empty\.\n  fix: .*inputs\.imu\.optional: true"):
        next(open_dataset(tmp_path, SENSOR).batches("train", 1))


def test_an_empty_text_is_an_unknown_word_and_never_all_padding(tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    (tmp_path / "tokenizer.json").write_text(build_vocabulary(["größer"], 10))
    write_csv(
        tmp_path,
        [{"split": "train", "text": text, "event": "quiet"} for text in ("", "Größer")] + [{"split": "val", "text": "", "event": "quiet"}],
    )
    card = make_card(
        {"text": {"modality": "text", "length": 2, "tokenizer": str(tmp_path / "tokenizer.json")}}, {"event": OUTPUTS["event"]}
    )
    assert next(open_dataset(tmp_path, card).batches("train", 2)).inputs["text"].tolist() == [[1, 0], [2, 0]]


# --- bad manifests and bad rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("split,imu,level\n", "has no rows"),
        ("imu,level\n1 2 3,1\n", "there is no column 'split'.\n  why: columns: imu, level."),
        ("split,imu,imu,level\ntrain,1,2,1\n", "column 'imu' stands there twice"),
        ("split,imu\ntrain,1 2 3\n", "there is no column 'level'.\n  why: the card's output 'level' is read from it"),
        ("split,imus,level\ntrain,1 2 3,1\n", "there is no column 'imu'.\n  why: the card's input 'imu' .*\n  fix: .*did you mean 'imus'"),
        ("split,imu,level\ntrian,1 2 3,1\n", "row 2, column 'split': 'trian' is no split.\n  fix: did you mean 'train'"),
        ("split,imu,level\n,1 2 3,1\n", "row 2, column 'split': it names no split"),
        ('"split,imu,level\ntrain,1 2 3,1\n', "the header is not CSV|there is no column"),
    ],
)
def test_manifests_that_cannot_be_used_say_why(tmp_path, text, words):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(tmp_path, SENSOR)
    assert "manifest.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"row 2, column 'split': it names no split\.\n  why: it is not JSON"),
        ("3", "why: it is not a JSON object"),
        (
            '{"split": "train", "imu": [1, 2, 3], "imu": [4, 5, 6], "level": 1}',
            "row 2: the row cannot be read.\n  why: 'imu' stands there twice",
        ),
    ],
)
def test_broken_json_lines_are_errors(tmp_path, line, words):
    good = [json.dumps({"split": split, "imu": [1, 2, 3], "level": 1}) for split in ("train", "val")]
    (tmp_path / "manifest.jsonl").write_text("\n".join([good[0], line, good[1]]) + "\n")
    with pytest.raises(DataError, match=words):
        list(open_dataset(tmp_path, SENSOR).batches("train", 2))


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read as parquet"):
        open_dataset(tmp_path, SENSOR)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "gone.png"}, r"row 3, column 'image': 'gone\.png' is missing"),
        ({"image": "broken.png"}, r"row 3, column 'image': .*broken\.png' cannot be read as a picture"),
        ({"audio": "broken.wav"}, r"row 3, column 'audio': .*broken\.wav' cannot be read as sound"),
        ({"audio": "fast.wav"}, r"row 3, column 'audio': .*fast\.wav' has 16000 Hz, the card says 8000 Hz"),
        ({"imu": "1 nan 3"}, r"row 3, column 'imu': the value at \[1\] is nan"),
        ({"event": "cat"}, r"row 3, column 'event': label 'cat' is not in the card"),
        ({"level": "loud"}, r"row 3, column 'level': 'loud' is no number"),
    ],
)
def test_a_bad_row_names_file_row_and_column_and_may_be_skipped(porchlike, row, words):
    (porchlike / "broken.png").write_bytes((porchlike / "0.png").read_bytes()[:40])
    (porchlike / "broken.wav").write_bytes(b"RIFF....")
    soundfile.write(porchlike / "fast.wav", np.zeros(80), 16000)
    with (porchlike / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write_csv(porchlike, [rows[0], rows[1] | row, *rows[2:]])
    card = make_card(INPUTS | {"audio": INPUTS["audio"] | {"resample": False}})
    with pytest.raises(DataError, match=words) as caught:
        list(open_dataset(porchlike, card).batches("train", 2))
    assert str(caught.value).startswith(str(porchlike / "manifest.csv"))
    lenient = open_dataset(porchlike, card, skip_bad_rows=True)
    assert [batch.rows.tolist() for batch in lenient.batches("train", 2)] == [[2, 4], [5]]
    list(lenient.batches("train", 2, shuffle=1))
    assert len(lenient.bad_rows) == 1
    assert lenient.bad_rows[0].startswith(f"{porchlike / 'manifest.csv'}, row 3, column '{next(iter(row))}': ")


def test_rows_without_a_split_or_with_missing_fields_are_skipped_and_told(tmp_path):
    text = "split,imu,level\ntrain,1 2 3,1\n,1 2 3,1\ntrain,4 5 6\nval,1 2 3,1\ntrain,7 8 9,1,2\ntrain,\xff 1 2,1\n"
    path = tmp_path / "manifest.csv"
    path.write_bytes(text.encode("latin-1"))
    dataset = open_dataset(tmp_path, SENSOR, skip_bad_rows=True)
    assert seen(dataset, "train") == [1]
    assert [line.partition("manifest.csv, ")[2] for line in dataset.bad_rows] == [
        "row 3, column 'split': it names no split.",
        "row 4: the row cannot be read. it has 2 fields, the header has 3.",
        "row 6: the row cannot be read. it has 4 fields, the header has 3.",
        "row 7: the row cannot be read. line 7 is not UTF-8: byte 6 is 0xff, which is 'ÿ' in Windows' and Latin-1 files. "
        f"save the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8 {path} > {path.with_name('utf8-manifest.csv')}) and see whether its "
        "letters are right.",
    ]


def test_a_split_of_nothing_but_bad_rows_is_an_error_even_when_skipping(tmp_path):
    write_csv(tmp_path, [row | {"imu": "x"} for row in sensor_rows(3)] + sensor_rows(1, "val"))
    with pytest.raises(DataError, match=r"no row of split 'train' can be read\.\n  why: .*row 2, column 'imu': 'x' is no number"):
        list(open_dataset(tmp_path, SENSOR, skip_bad_rows=True).batches("train", 2))


def test_an_empty_or_unknown_split_is_an_error_before_anything_is_read(tmp_path):
    dataset = open_dataset(sensor_folder(tmp_path, train=3, val=2), SENSOR)
    with pytest.raises(DataError, match=r"split 'test' has no rows\.\n  why: rows: train 3, val 2\.\n  fix: add rows with split 'test'"):
        dataset.batches("test", 2)
    with pytest.raises(DataError, match=r"there is no split 'tets'\.\n  fix: did you mean 'test'"):
        dataset.batches("tets", 2)


def test_a_card_error_is_no_bad_row(tmp_path):
    write_csv(tmp_path, [{"split": split, "text": "red", "event": "quiet"} for split in ("train", "val")])
    card = make_card({"text": {"modality": "text", "length": 3, "tokenizer": str(tmp_path / "gone.json")}}, {"event": OUTPUTS["event"]})
    with pytest.raises(CardError, match=r"gone\.json' cannot be read"):
        list(open_dataset(tmp_path, card, skip_bad_rows=True).batches("train", 1))


# --- what is chosen to calibrate


def labelled_folder(folder, counts, split="train"):
    rows = [{"split": split, "text": "[1, 2]", "event": label} for label, count in counts.items() for _ in range(count)]
    return write_csv(folder, [*rows, {"split": "val", "text": "[1]", "event": "quiet"}])


TENSOR = make_card({"text": {"modality": "tensor", "dtype": "int64", "shape": ["batch", 2]}}, {"event": OUTPUTS["event"]})


def test_calibration_is_deterministic_and_covers_the_labels(tmp_path):
    dataset = open_dataset(labelled_folder(tmp_path, {"quiet": 600, "glass": 399, "person": 1}), TENSOR)
    chosen = list(dataset.calibration(20))
    assert all(len(batch) == 1 for batch in chosen)
    assert np.bincount([batch.truth["event"][0] for batch in chosen]).tolist() == [12, 7, 1]
    rows = [batch.rows[0] for batch in chosen]
    assert len(set(rows)) == 20
    assert rows != sorted(rows)
    assert rows == [batch.rows[0] for batch in dataset.calibration(20)]
    assert rows != [batch.rows[0] for batch in dataset.calibration(20, seed=1)]
    once, again = list(dataset.calibration(3)), list(dataset.calibration(3))
    assert all(a is b for a, b in zip(once, again, strict=True))  # the next target's are not decoded anew
    assert len({batch.truth["event"][0] for batch in dataset.calibration(3)}) == 3


def test_calibration_takes_calib_first_and_all_rows_when_there_are_few(tmp_path):
    rows = sensor_rows(50) + sensor_rows(4, "calib", 100) + sensor_rows(1, "val", 200)
    dataset = open_dataset(write_csv(tmp_path, rows), SENSOR)
    assert sorted(batch.inputs["imu"][0, 0] for batch in dataset.calibration(300)) == [100, 101, 102, 103]


@pytest.mark.parametrize("samples", [0, 1])
def test_fewer_than_two_calibration_samples_are_an_error(tmp_path, samples):
    dataset = open_dataset(sensor_folder(tmp_path, train=1, val=3), SENSOR)
    with pytest.raises(DataError, match=rf"calibration is to use {samples} samples?, and needs at least 2\.\n  why: value ranges"):
        dataset.calibration(samples)
    with pytest.raises(DataError, match=r"split 'train' has 1 row, calibration needs at least 2\.\n  why: value ranges"):
        dataset.calibration(300)


def test_calibration_without_rows_is_an_error(tmp_path):
    with pytest.raises(DataError, match="split 'train' has no rows"):
        open_dataset(sensor_folder(tmp_path, val=3), SENSOR).calibration(300)


# --- statistics, fingerprint


def test_sensor_statistics_are_those_of_the_train_split_per_channel(tmp_path):
    values = np.random.default_rng(0).normal([5, -2, 1e4], [2, 0.1, 3], (700, 3)).round(4)
    values[:, 1] = 7.0
    rows = [{"split": "train", "imu": " ".join(map(str, row)), "level": 1} for row in values]
    rows += [{"split": "train", "imu": "", "level": 1}, {"split": "val", "imu": "0 0 0", "level": 1}]
    card = make_card({"imu": INPUTS["imu"] | {"optional": True}}, {"level": OUTPUTS["level"]})
    mean, std = statistics(present_samples(open_dataset(write_csv(tmp_path, rows), card), "imu"))
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, [values[:, 0].std(), 1.0, values[:, 2].std()], rtol=1e-3)


def test_the_fingerprint_changes_with_the_manifest_and_with_the_files_it_names(porchlike):
    def now():
        return open_dataset(porchlike, make_card()).fingerprint()

    before = now()
    assert before == now()
    json.dumps(before)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(porchlike / "9.png")
    assert before == now()  # a file that no row names
    time.sleep(0.01)
    Image.fromarray(np.ones((4, 4), np.uint8)).save(porchlike / "3.png")
    changed = now()
    assert changed["manifest"] == before["manifest"]
    assert changed["files"] != before["files"]
    (porchlike / "manifest.csv").write_bytes((porchlike / "manifest.csv").read_bytes() + b"\n")
    assert now()["manifest"] != before["manifest"]


def test_a_copy_of_a_dataset_has_its_fingerprint_whatever_its_times(porchlike, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(porchlike, copy, copy_function=shutil.copy)
    os.utime(copy / "3.png", (1_000_000, 1_000_000))
    assert open_dataset(copy, make_card()).fingerprint() == open_dataset(porchlike, make_card()).fingerprint()


def test_files_of_a_dataset_are_read_for_its_fingerprint_once(porchlike, monkeypatch):
    for path in porchlike.iterdir():
        os.utime(path, (1_000_000, 1_000_000))
    before = open_dataset(porchlike, make_card()).fingerprint()
    monkeypatch.setattr("edgemm.data.dataset.sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert open_dataset(porchlike, make_card()).fingerprint() == before


def test_cells_are_handed_out_undecoded(tmp_path):
    write_csv(tmp_path, [{"split": "train", "imu": cell, "level": 1} for cell in ("1 2 3", "", "4 5 6")] + sensor_rows(1, "val"))
    assert list(open_dataset(tmp_path, SENSOR).cells("train", "imu")) == ["1 2 3", "4 5 6"]


# --- streaming


def test_decoding_runs_ahead_but_not_far_and_stops_with_the_reader(tmp_path):
    card = make_card({"x": {"modality": "tensor", "dtype": "float32", "shape": ["batch", 1 << 20]}}, {"y": {"task": "embedding"}})
    drawn = []

    class Endless:
        name, folder, columns, absent = "endless", tmp_path, ("split", "x"), {}

        def has(self, split):
            return split == "train"

        def rows(self, split, *, rng=None):
            from edgemm.data.manifest import ManifestRow

            for number in itertools.count():
                drawn.append(number)
                yield ManifestRow(number, {"x": np.zeros(1 << 20, np.float32)})

    from edgemm.data.dataset import TableDataset

    batches = TableDataset(Endless(), card, bad=None).batches("train", 2)
    next(batches)
    time.sleep(0.3)
    assert 2 <= len(drawn) <= 40  # 64 MiB of 4 MiB rows wait
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgemm-decode") and not _ends(thread)]


def _ends(thread):
    thread.join(5)
    return not thread.is_alive()


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path):
    peaks = {}
    for count in (10_000, 40_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        lines = io.StringIO("split,imu,level\n")
        lines.seek(0, io.SEEK_END)
        for number in range(count):
            lines.write(f"{'val' if number % 10 == 0 else 'train'},{number} 2 3,{number % 7}\n")
        (folder / "manifest.csv").write_text(lines.getvalue())
        del lines
        tracemalloc.start()
        dataset = open_dataset(folder, SENSOR)
        for batch in dataset.batches("train", 64, shuffle=0, limit=5000):
            del batch
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[40_000] < peaks[10_000] + 0.2e6
    assert peaks[40_000] < 8e6


def test_an_npz_is_never_whole_in_memory(tmp_path):
    values = np.zeros((4000, 1000), np.float32)  # 16 MB
    card = make_card({"imu": {"modality": "sensor", "shape": [1000]}}, {"level": OUTPUTS["level"]})
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "train.npz", imu=values, level=np.arange(4000))
        tracemalloc.start()
        for batch in open_dataset(tmp_path, card).batches("train", 10, shuffle=0, limit=500):
            del batch
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6


def test_small_pictures_and_sounds_are_decoded_quickly(unpacked):
    """1500 rows were to take 1.5 s of one core; the bar here is wide, for a slow one."""
    card = find_labels(
        unpacked("avdigits", "--spoiled", limit=200),
        make_card(
            {"image": INPUTS["image"] | {"height": 28, "width": 28}, "audio": INPUTS["audio"] | {"seconds": 1.0}},
            {"digit": {"task": "classification"}},
        ),
    )
    assert card.outputs["digit"].labels == tuple("0123456789")
    dataset = open_dataset(unpacked("avdigits", "--spoiled", limit=200), card)
    next(dataset.batches("test", 1))  # imports pillow and soundfile
    begin = time.process_time()
    assert sum(len(batch) for batch in dataset.batches("test", 64)) == 200
    assert time.process_time() - begin < 2.0


def test_the_easyvqa_set_is_read_with_its_own_column_names(unpacked, tmp_path):
    from edgemm.data.modalities.text import build_vocabulary

    folder = unpacked("easyvqa", limit=60)
    plain = {
        "factory": "a:b",
        "inputs": {
            "image": {"modality": "image", "height": 64, "width": 64},
            "text": {"modality": "text", "vocab": 40, "length": 10, "mask": True},
        },
        "outputs": {"answer": {"task": "classification"}},
        "columns": {"question": "text"},
    }
    card = cards.parse(plain)
    texts = open_dataset(folder, card).cells("train", "text")
    (tmp_path / "tokenizer.json").write_text(build_vocabulary(texts, 40))
    plain["inputs"]["text"]["tokenizer"] = str(tmp_path / "tokenizer.json")
    card = find_labels(folder, cards.parse(plain))
    batch = next(open_dataset(folder, card).batches("train", 8))
    assert batch.inputs["image"].shape == (8, 64, 64, 3)
    assert ((batch.inputs["text"] > 1).sum(axis=1) >= 3).all()
    assert card.outputs["answer"].labels == tuple(sorted(card.outputs["answer"].labels))


@pytest.mark.parametrize(("package", "leaf", "column"), [("PIL", "_image.pictures", "image"), ("soundfile", "_audio.sounds", "audio")])
def test_without_the_package_that_decodes_the_error_says_which_extra_brings_it(porchlike, monkeypatch, package, leaf, column):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delattr(f"edgemm.data.modalities.{leaf}", raising=False)
    monkeypatch.delitem(sys.modules, f"edgemm.data.modalities.{leaf}", raising=False)
    card = make_card({column: INPUTS[column]})
    with pytest.raises(MissingExtra, match=rf"needs the package '{package}'\.\n  why: .*\n  fix: pip install 'edgemm\[data\]'"):
        next(open_dataset(porchlike, card, skip_bad_rows=True).batches("train", 1))


def test_without_pyarrow_a_parquet_manifest_says_which_extra_brings_it(tmp_path, monkeypatch):
    parquet.write_table(pyarrow.Table.from_pylist(sensor_rows(3)), tmp_path / "manifest.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "edgemm.data.parquet", raising=False)
    with pytest.raises(MissingExtra, match="reading parquet needs the package 'pyarrow'"):
        open_dataset(tmp_path, SENSOR)
