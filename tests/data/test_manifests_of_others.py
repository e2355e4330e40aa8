"""Manifests as spreadsheets, other programs and other people write them."""

import json
import subprocess

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.dataset import find_labels, open_dataset
from edgemm.errors import DataError

CARD = cards.parse(
    {
        "factory": "a:b",
        "inputs": {"imu": {"modality": "sensor", "shape": [2]}},
        "outputs": {"mood": {"task": "classification", "labels": ["gut", "trüb"]}},
    }
)
ROWS = [("train", "1 2", "gut"), ("val", "3 4", "trüb"), ("test", "5 6", "gut"), ("train", "7 8", "trüb")]
PLAIN = "split,imu,mood\n" + "".join(",".join(row) + "\n" for row in ROWS)


def truth(path, card=CARD):
    dataset = open_dataset(path, card)
    batches = {split: next(iter(dataset.batches(split, 9))) for split in ("train", "val", "test")}
    return {split: (batch.inputs["imu"].tolist(), batch.truth["mood"].tolist()) for split, batch in batches.items()}


WANTED = {"train": ([[1, 2], [7, 8]], [0, 1]), "val": ([[3, 4]], [1]), "test": ([[5, 6]], [0])}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(), PLAIN.encode("utf-8-sig"), PLAIN.encode("utf-16"), PLAIN.encode("utf-16-le"), PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-32"), PLAIN.replace("\n", "\r\n").encode(), PLAIN.replace("\n", "\r").encode(), PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode("utf-16"), PLAIN.replace(",", "|").encode(),
        ("sep=\t\n" + PLAIN.replace(",", "\t")).encode("utf-8-sig"),
        ("sep=;\r\n" + PLAIN.replace(",", ";")).encode(),
        PLAIN.replace("split,imu,mood", "SPLIT, IMU ,Mood").encode(), PLAIN.replace("split,", " Split ,").encode(),
        PLAIN.replace("train", "Train").replace("test", " TEST ").encode(),
    ],
)  # fmt: skip
def test_encoding_delimiter_and_case_are_found_out(tmp_path, content):
    (tmp_path / "manifest.csv").write_bytes(content)
    assert truth(tmp_path) == WANTED


def other_words(split):
    return {"val": "validation", "train": "Training"}.get(split, split)


def test_a_split_may_have_the_name_that_others_give_it(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"split": [other_words(row[0]) for row in ROWS], "imu": [row[1] for row in ROWS], "mood": [row[2] for row in ROWS]}
    (tmp_path / "a.csv").write_text(PLAIN.replace("val,", "validation,").replace("train,", "Training,"))
    parquet.write_table(pyarrow.table(columns), tmp_path / "b.parquet")
    arrays = {split: {"imu": np.float32(WANTED[split][0]), "mood": WANTED[split][1]} for split in WANTED}
    both = {key: np.concatenate([arrays[split][key] for split in WANTED]) for key in ("imu", "mood")}
    np.savez(tmp_path / "c.npz", split=np.array([other_words(split) for split in WANTED for _ in arrays[split]["imu"]], "S"), **both)
    (tmp_path / "d").mkdir()
    for split in WANTED:
        np.savez(tmp_path / "d" / f"{other_words(split)}.npz", **arrays[split])
    for data in ("a.csv", "b.parquet", "c.npz", "d"):
        assert truth(tmp_path / data) == WANTED, data


def test_a_function_that_refuses_val_is_asked_for_validation(tmp_path, monkeypatch):
    rows = {other_words(split): rows for split, rows in BY_SPLIT.items()} | {"train": BY_SPLIT["train"]}
    (tmp_path / "hub.py").write_text(f"ROWS = {rows!r}\ndef rows(split):\n    return ROWS[split]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert truth("hub:rows") == WANTED


OBJECTS = [{"Split": split, "imu": imu, "mood": mood} for split, imu, mood in ROWS]
BY_SPLIT = {split: [{"imu": imu, "mood": mood} for own, imu, mood in ROWS if own == split] for split in ("train", "val", "test")}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.jsonl"])
@pytest.mark.parametrize(
    "plain",
    [
        OBJECTS, {"rows": OBJECTS}, {"version": 2, "rows": OBJECTS}, BY_SPLIT, {key.title(): rows for key, rows in BY_SPLIT.items()},
        {"version": 2, "data": {"splits": BY_SPLIT}}, {"labels": ["gut"], **{key: {"rows": rows} for key, rows in BY_SPLIT.items()}},
        {"training": BY_SPLIT["train"], "Validation": BY_SPLIT["val"], "test": BY_SPLIT["test"]},
        {"meta": {"by": [{"a": 1}]}, "rows": OBJECTS},
    ],
)  # fmt: skip
def test_json_may_be_one_list(tmp_path, name, plain):
    if name.endswith("l") and plain is not OBJECTS:
        pytest.skip("a line of JSON is a row")
    (tmp_path / name).write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    assert truth(tmp_path) == WANTED


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.tsv", "manifest.json", "manifest.jsonl"])
def test_another_encoding_is_told_with_the_command_that_converts_it(tmp_path, name):
    text = PLAIN.replace("mood", "Gefühl") if name == "manifest.csv" else PLAIN.replace(",", "\t") if name.endswith("tsv") else None
    path = tmp_path / name
    rows = "\n".join(json.dumps(row, ensure_ascii=False) for row in OBJECTS)
    path.write_bytes((text or (f"[{rows}]".replace("\n", ",\n") if name.endswith("json") else rows)).encode("latin-1"))
    with pytest.raises(DataError) as error:
        truth(path)
    command = f"iconv -f WINDOWS-1252 -t UTF-8 {path} > {tmp_path / f'utf8-{name}'}"
    assert f"({command})" in str(error.value)
    subprocess.run(command, shell=True, check=True)
    card = CARD if name != "manifest.csv" else cards.parse({**CARD.to_dict(), "columns": {"Gefühl": "mood"}})
    assert truth(tmp_path / f"utf8-{name}", card) == WANTED


def test_the_message_says_what_was_seen(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("part;imu;mood\ntrain;1 2;gut\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"columns, read with ',' between and as UTF-16: part;imu;mood"):
        open_dataset(tmp_path, CARD)
    (tmp_path / "manifest.csv").write_bytes(PLAIN.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 3 is not UTF-8.*0xfc, which is 'ü' in Windows' and Latin-1 files.*save the file as UTF-8"):
        list(open_dataset(tmp_path, CARD).batches("val", 4))
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "manifest.json").write_text('[{"split": "train",}]')
    with pytest.raises(DataError, match=r"manifest\.json, line 1: it is not JSON"):
        open_dataset(tmp_path, CARD)


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_rows_all_alike_are_not_all_val(tmp_path, rows):
    (tmp_path / "manifest.csv").write_text("split,imu,mood\n" + "train,1 2,gut\n" * rows)
    dataset = open_dataset(tmp_path, CARD)
    assert 0 < dataset.count("val") <= dataset.count("train")
    assert dataset.count("val") + dataset.count("train") == rows
    assert dataset.count("val") == open_dataset(tmp_path, CARD).count("val")


UNLABELLED = cards.parse({**CARD.to_dict(), "outputs": {"mood": {"task": "classification"}}})


def test_a_label_whose_only_row_is_held_out_as_val_is_found(tmp_path):
    moods = [f"m{number}" for number in range(9)]
    (tmp_path / "manifest.csv").write_text("split,imu,mood\n" + "".join(f"train,1 2,{mood}\n" for mood in moods))
    dataset = open_dataset(tmp_path, UNLABELLED)
    assert dataset.count("val")
    np.savez(tmp_path / "all.npz", imu=np.zeros((9, 2), np.float32), mood=np.array(moods), split=np.array(["train"] * 9))
    for data in (tmp_path / "manifest.csv", tmp_path / "all.npz"):
        assert find_labels(data, UNLABELLED).outputs["mood"].labels == tuple(moods)


def test_where_no_row_can_be_read_the_missing_labels_say_why(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("split,imu,mood\ntrain,1 2,trüb\nval,1 2,trüb\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"has a label for 'mood'(?s:.)*row 2 cannot be read: line 2 is not UTF-8.*save the file as UTF-8"):
        find_labels(tmp_path, UNLABELLED)
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match=r"has no rows\.\s+why: it is empty"):
        open_dataset(tmp_path, CARD)


def test_parquet_takes_another_case_too(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "Split": [row[0] for row in ROWS],
        "IMU": [np.array(row[1].split(), float) for row in ROWS],
        "mood": [row[2] for row in ROWS],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "manifest.parquet")
    assert truth(tmp_path) == WANTED
    assert find_labels(tmp_path, UNLABELLED).outputs["mood"].labels == ("gut", "trüb")
