"""Data of many rows: an index of the manifest that is kept, a check of some rows, parquet in parts, tar shards."""

import io
import json
import os
import tarfile
import time

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data import checking, index, plain_lines
from edgemm.data.dataset import open_dataset
from edgemm.data.lines import CsvManifest
from edgemm.data.manifest import Manifest
from edgemm.errors import DataError

CARD = cards.parse(
    {
        "factory": "a:b",
        "inputs": {"imu": {"modality": "sensor", "shape": [2], "rate_hz": 50}},
        "outputs": {"event": {"task": "classification", "labels": ["no", "yes"]}},
    }
)


def rows(count, splits=("train", "val", "test")):
    return [{"split": splits[n % len(splits)], "imu": f"{n} {n % 7}.5", "event": ("no", "yes")[n % 2]} for n in range(count)]


def write_csv(path, table):
    path.write_text("split,imu,event\n" + "".join(f"{row['split']},{row['imu']},{row['event']}\n" for row in table))
    settle(path)
    return path


def settle(path):
    """As if it had been written a while ago: what is as new as the clock's tick is not remembered."""
    os.utime(path, (1e9, 1e9))


def flat(batches):
    return [str(row) for batch in batches for row in batch]


def read(data):
    dataset = open_dataset(data, CARD)
    return {split: [batch.inputs["imu"].tolist() for batch in dataset.batches(split, 64)] for split in dataset.splits()}


@pytest.fixture
def small_is_large(monkeypatch, empty_cache):
    monkeypatch.setattr(index, "LEAST_BYTES", 1)
    return empty_cache


@pytest.fixture
def no_scan(monkeypatch):
    """``no_scan()``: from now on a manifest that is read whole when it is opened fails the test."""

    def forbid():
        monkeypatch.setattr("edgemm.data.manifest.Manifest._scan", lambda self, held_below=0: pytest.fail("it was read whole"))

    return forbid


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test")])
def test_a_manifest_opened_again_is_not_read_whole_and_says_the_same(tmp_path, small_is_large, no_scan, splits):
    path = write_csv(tmp_path / "manifest.csv", rows(300, splits))
    first, counts = read(tmp_path), [open_dataset(tmp_path, CARD).count(split) for split in ("train", "val", "test")]
    mark = open_dataset(tmp_path, CARD).fingerprint()
    no_scan()
    assert read(tmp_path) == first
    again = open_dataset(tmp_path, CARD)
    assert [again.count(split) for split in ("train", "val", "test")] == counts
    assert again.source.is_val_held_out == ("val" not in splits)
    assert again.fingerprint() == mark
    assert index.place([path], "CsvManifest").is_file()


def test_a_changed_manifest_is_read_anew(tmp_path, small_is_large):
    path = write_csv(tmp_path / "manifest.csv", rows(30))
    before = open_dataset(tmp_path, CARD)
    mark = before.fingerprint()
    write_csv(path, rows(60))
    after = open_dataset(tmp_path, CARD)
    assert (before.count("train"), after.count("train")) == (10, 20)
    assert after.fingerprint() != mark


def test_a_damaged_index_and_one_of_a_row_that_was_refused_are_not_used(tmp_path, small_is_large):
    path = write_csv(tmp_path / "manifest.csv", rows(30))
    open_dataset(tmp_path, CARD)
    index.place([path], "CsvManifest").write_bytes(b"PK no index")
    assert open_dataset(tmp_path, CARD).count("train") == 10
    write_csv(path, [*rows(30), {"split": "tarin", "imu": "1 2", "event": "no"}])
    for _ in range(2):
        dataset = open_dataset(tmp_path, CARD, skip_bad_rows=True)
        assert "'tarin' is no split" in dataset.bad_rows[0]
    with pytest.raises(DataError, match="'tarin' is no split"):
        open_dataset(tmp_path, CARD)


def test_delimiter_and_columns_come_from_the_index_too(tmp_path, small_is_large, no_scan):
    (tmp_path / "manifest.csv").write_text("Split;imu;event\n" + "".join(f"{split};1 2;no\n" for split in ("train", "val", "test")))
    settle(tmp_path / "manifest.csv")
    first = read(tmp_path)
    no_scan()
    assert read(tmp_path) == first
    assert open_dataset(tmp_path, CARD).source.columns == ("split", "imu", "event")


def blocks(manifest):
    return list(manifest._begins), {split: list(counted) for split, counted in manifest._counts.items()}, manifest._lowest


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "test"), ("Training ", " VALID", "testing")])
def test_blocks_found_from_bytes_are_those_that_reading_every_cell_finds(tmp_path, monkeypatch, end, last, splits):
    monkeypatch.setattr(plain_lines, "PIECE", 211)  # lines lie across pieces
    lines = ["imu,split,event", ""] + [f"{n} é,{splits[n % len(splits)]},{'no' * (n % 5)}" for n in range(500)]
    lines[100:100] = ["", "1 2,train,no,one too many", "1 2,test"]
    (tmp_path / "manifest.csv").write_bytes((end.join(lines) + (end if last else "")).encode())
    manifest = CsvManifest(tmp_path / "manifest.csv", None)
    scanned = []
    monkeypatch.setattr(plain_lines, "scan", lambda *args, **options: scanned.append(args))
    read = CsvManifest(tmp_path / "manifest.csv", None)
    assert scanned
    assert blocks(manifest)[:2] == blocks(read)[:2]
    assert manifest.is_val_held_out == read.is_val_held_out == ("test" in splits and len(splits) == 2)
    if manifest.is_val_held_out:
        assert manifest._lowest == read._lowest
    for split in ("train", "val", "test"):
        assert len(list(manifest.rows(split))) == manifest.count(split) > 100 * (split != "val")


@pytest.mark.parametrize(
    "row", ['"a ""train"", of words",train,no', 'quoted "in" the middle,train,no', "a\rb,train,no", "a\0b,train,no", "1 2"]
)
def test_where_a_row_need_not_be_a_line_every_cell_is_read(tmp_path, row):
    text = "imu,split,event\n" + "1 2,train,no\n" * 70 + f"{row}\n" + '"two\nlines",val,no\n'
    (tmp_path / "manifest.csv").write_bytes(text.encode())
    with (tmp_path / "manifest.csv").open("rb") as file:
        file.readline()
        assert plain_lines.scan(file, 2, 1, b",", block_rows=64, held_below=0, by_number=False) is None
    bad = {}
    manifest = CsvManifest(tmp_path / "manifest.csv", bad)
    assert (manifest.count("train") + len(bad), manifest.count("val")) == (71, 1)


def test_many_rows_are_opened_in_less_than_half_of_the_processor_time_of_reading_their_cells(tmp_path):
    write_csv(tmp_path / "manifest.csv", rows(100_000))
    spent = []
    for scan in (CsvManifest._scan, Manifest._scan):
        manifest = CsvManifest(tmp_path / "manifest.csv", None)
        begin = time.process_time()
        scan(manifest)
        spent.append(time.process_time() - begin)
    assert spent[0] < spent[1] / 2  # measured: a tenth


@pytest.mark.parametrize(("text", "names"), [("1 2", False), ("imu.npy", True), ("imu.NpY", True), ("x.nth", False)])
def test_a_manifest_that_names_no_file_is_known_by_its_own_content(tmp_path, text, names):
    write_csv(tmp_path / "manifest.csv", [{"split": "train", "imu": text, "event": "no"}])
    assert CsvManifest(tmp_path / "manifest.csv", None).may_name("imu", (".npy",)) == names


def test_of_many_rows_some_are_checked_and_the_others_when_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "WHOLE_ROWS", 500)
    monkeypatch.setattr(checking, "SOME_ROWS", 100)
    monkeypatch.setattr(checking, "LEAST_ROWS", 10)
    table = rows(3000)
    table[200]["event"] = "maybe"
    write_csv(tmp_path / "manifest.csv", table)
    said = []
    dataset = open_dataset(tmp_path, CARD)
    checking.check(dataset, note=said.append)
    assert "about 100 of its 3,000 rows are checked now, each of the others when it is read" in said[0]
    with pytest.raises(DataError, match=r"row 202, column 'event'"):
        list(dataset.batches("test", 64))
    table[0]["event"] = "perhaps"
    write_csv(tmp_path / "manifest.csv", table)
    with pytest.raises(DataError, match=r"row 2, column 'event'"):
        checking.check(open_dataset(tmp_path, CARD))


def test_parquet_in_parts_says_the_same_as_in_one(tmp_path, small_is_large, no_scan):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = rows(200)
    (tmp_path / "one").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "hub" / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "one" / "manifest.parquet")
    for number in range(3):
        piece = pyarrow.Table.from_pylist(table[number * 70 : (number + 1) * 70])
        parquet.write_table(piece, tmp_path / "parts" / f"manifest-{number}.parquet", row_group_size=30)
    for split, word in (("train", "train"), ("val", "validation"), ("test", "test")):
        mine = [{key: row[key] for key in ("imu", "event")} for row in table if row["split"] == split]
        for number in range(2):
            file = tmp_path / "hub" / "data" / f"{word}-0000{number}-of-00002.parquet"
            parquet.write_table(pyarrow.Table.from_pylist(mine[number::2]), file)
    for path in tmp_path.rglob("*.parquet"):
        settle(path)
    one, parts, hub = (read(tmp_path / name) for name in ("one", "parts", "hub"))
    assert one == parts
    assert {split: sorted(flat(hub[split])) for split in hub} == {split: sorted(flat(one[split])) for split in one}
    drawn = open_dataset(tmp_path / "parts", CARD)
    shuffled = [batch.rows.tolist() for batch in drawn.batches("train", 8, shuffle=1)]
    assert shuffled == [batch.rows.tolist() for batch in open_dataset(tmp_path / "parts", CARD).batches("train", 8, shuffle=1)]
    mark = drawn.fingerprint()
    no_scan()
    assert read(tmp_path / "parts") == parts
    assert read(tmp_path / "hub") == hub
    assert open_dataset(tmp_path / "parts", CARD).fingerprint() == mark


def test_parts_with_other_columns_are_refused(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number, names in enumerate((("split", "imu"), ("split", "event"))):
        parquet.write_table(pyarrow.table({name: ["train"] for name in names}), tmp_path / f"manifest-{number}.parquet")
    with pytest.raises(DataError, match=r"its files have different columns\.\n  why: split, event in manifest-1\.parquet"):
        open_dataset(tmp_path, CARD)


def write_tar(path, table, *, text):
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(table):
            files = {"cls": row["event"], "imu": row["imu"]} if text else {"json": json.dumps({"imu": row["imu"], "event": row["event"]})}
            for column, cell in files.items():
                content = cell.encode()
                info = tarfile.TarInfo(f"rows/{number:05d}.{column}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    settle(path)


def test_tar_shards_say_the_same_as_a_manifest(tmp_path, small_is_large, no_scan):
    table = rows(400)
    write_csv(tmp_path / "manifest.csv", table)
    shards = tmp_path / "shards"
    shards.mkdir()
    for split in ("train", "val", "test"):
        mine = [row for row in table if row["split"] == split]
        for number in range(2):
            half = slice(number * 70, None if number else 70)
            write_tar(shards / f"{split}-{number:06d}.tar", mine[half], text=False)
    manifest, tars = read(tmp_path), read(shards)
    assert tars == manifest
    dataset = open_dataset(shards, CARD)
    some = [batch.rows.tolist() for batch in dataset.batches("train", 16, shuffle=3)]
    assert sorted(row for batch in some for row in batch) == sorted(row for batch in dataset.batches("train", 16) for row in batch.rows)
    assert some != [batch.rows.tolist() for batch in dataset.batches("train", 16)]
    mark = dataset.fingerprint()
    no_scan()
    assert read(shards) == tars
    assert open_dataset(shards, CARD).fingerprint() == mark


@pytest.mark.parametrize(("sound", "answer"), [("wav", "cls"), ("sound.wav", "answer.cls")])
def test_files_of_a_stem_are_columns_and_a_sound_is_read_from_its_shard(tmp_path, sound, answer):
    soundfile = pytest.importorskip("soundfile")
    wave = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave, 8000, format="WAV", subtype="FLOAT")
    card = cards.parse(
        {
            "factory": "a:b",
            "inputs": {sound.partition(".")[0]: {"modality": "audio", "rate_hz": 8000, "seconds": 1.0}},
            "outputs": {answer.partition(".")[0]: {"task": "classification", "labels": ["no", "yes"]}},
        }
    )
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for number in range(3):
            for column, content in ((sound, file.getvalue()), (answer, b"yes\n")):
                info = tarfile.TarInfo(f"{number}.{column}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (batch,) = open_dataset(tmp_path / "train-0.tar", card).batches("train", 8, limit=2)
    assert batch.truth[answer.partition(".")[0]].tolist() == [1, 1]
    assert np.allclose(batch.inputs[sound.partition(".")[0]][0].ravel(), wave, atol=1e-4)


def test_a_damaged_shard_is_an_error(tmp_path):
    (tmp_path / "train-0.tar").write_bytes(b"no tar" * 400)
    with pytest.raises(DataError, match=r"train-0\.tar cannot be read as tar"):
        open_dataset(tmp_path, CARD)
