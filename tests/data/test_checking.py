"""Mistakes of a manifest are told before anything is decoded."""

import itertools
import unicodedata
from pathlib import Path

import pytest

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.data.checking import check
from edgemm.data.dataset import open_dataset
from edgemm.errors import DataError, Mistakes
from edgemm.pipeline.job import start

CARD = {
    "factory": "a:b",
    "inputs": {"picture": {"modality": "image", "height": 8, "width": 8}, "said": {"modality": "text", "vocab": 9, "length": 3}},
    "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}, "level": {"task": "regression", "unit": "dB"}},
}
GOOD = "split,picture,said,event,level\ntrain,one.png,hi,a,1\nval,one.png,hi,b,2.5\ntest,one.png,,a,3\n"


@pytest.fixture
def card():
    return cards.parse(CARD)


def dataset(tmp_path: Path, card, text: str, **options):
    (tmp_path / "one.png").write_bytes(b"not looked into")
    (tmp_path / "manifest.csv").write_text(text)
    return open_dataset(tmp_path, card, **options)


def test_a_good_manifest_passes_without_its_files_being_opened(tmp_path, card):
    check(dataset(tmp_path, card, GOOD))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('test,one.png,hi,a,"1,5"', r"row 5, column 'level': it holds 2 values, row 2 1 value"),
        ("test,two.png,hi,a,1", r"row 5, column 'picture': 'two.png' is missing"),
        ("test,one.png,hi,c,1", r"row 5, column 'event'.*'c'"),
        ("test,one.png,hi,a,loud", r"row 5, column 'level': 'loud' is no number"),
        ("test,,hi,a,1", r"row 5, column 'picture': the cell is empty"),
        ("test,one.png,hi,,1", r"row 5, column 'event': the cell is empty"),
        ("test,one.png,hi,a", r"row 5: the row cannot be read"),
        (f"test,{'x' * 5000}.png,hi,a,1", r"row 5, column 'picture': 'x+.png' is missing"),
    ],
)
def test_a_wrong_late_row_is_told_with_row_and_column(tmp_path, card, row, words):
    with pytest.raises(DataError, match=words):
        check(dataset(tmp_path, card, f"{GOOD}{row}\n"))


PAIRS = "split,picture,said,event,level\ntrain,one.png,hi,a,{}\nval,one.png,hi,b,{}\ntest,one.png,,a,{}\n"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            ['"2,75"', "1.5", "3"],
            r"row 3, column 'level': it holds 1 value, row 2 2 values(.|\n)*'2,75' there may be one number",
        ),
        (
            ["1.5 2", '"2,75"', "3 1"],
            r"row 3, column 'level': it holds '2,75', row 2 '1.5 2'(.|\n)*may be two numbers, or one",
        ),
        (['"2,75"', "1.5 2", "3 1"], r"row 3, column 'level': it holds '1.5 2', row 2 '2,75'(.|\n)*'2,75' may be two numbers"),
        (["3", "1 250", "4"], r"row 3, column 'level': it holds 2 values, row 2 1 value(.|\n)*no blank stands within a number"),
        (["3", '"1.250,5"', "4"], r"row 3, column 'level': it holds 2 values(.|\n)*decimal point is '.'"),
        (["3", "3.5kg", "4"], r"row 3, column 'level': '3.5kg' is no number(.|\n)*without its unit"),
    ],
)
def test_a_decimal_comma_among_measurements_is_told(tmp_path, card, cells, words):
    with pytest.raises((DataError, Mistakes), match=words):
        check(dataset(tmp_path, card, PAIRS.format(*cells)))


@pytest.mark.parametrize(("cells", "is_told"), [(['"2,75"', '"3,5"', '"1,0"'], True), (['"2,75"', '"3.5,1"', '"1,0"'], False)])
def test_pairs_that_all_look_like_decimal_commas_are_read_as_pairs_and_told(tmp_path, card, cells, is_told):
    notes = []
    check(dataset(tmp_path, card, PAIRS.format(*cells)), note=notes.append)
    assert ["column 'level': '2,75' in row 2 is read as two numbers" in note for note in notes] == [True] * is_told


def test_a_file_whose_name_is_composed_otherwise_is_found(tmp_path, card):
    for written, listed in itertools.permutations(("NFC", "NFD")):
        folder = tmp_path / written
        folder.mkdir()
        (folder / unicodedata.normalize(written, "Gerät.png")).write_bytes(b"")
        rows = GOOD.replace("one.png", unicodedata.normalize(listed, "Gerät.png"))
        opened = dataset(folder, card, rows)
        check(opened)
        before = opened.fingerprint()
        (folder / unicodedata.normalize(written, "Gerät.png")).write_bytes(b"another")
        assert dataset(folder, card, rows).fingerprint() != before


@pytest.mark.parametrize(("value", "why"), [("[" * 100_000, "nested too deeply"), ("9" * 5000, "4300 digits")])
def test_a_row_of_json_that_python_cannot_hold_is_told_by_its_number(tmp_path, card, value, why):
    (tmp_path / "manifest.jsonl").write_text('{"split": "train"}\n{"split": "train", "said": ' + value)
    with pytest.raises(DataError, match=rf"row 2, column 'split': it names no split.\n  why: it is not JSON: .*{why}"):
        open_dataset(tmp_path / "manifest.jsonl", card)


def test_several_mistakes_are_told_together_and_not_a_thousand(tmp_path, card):
    with pytest.raises(Mistakes) as caught:
        check(dataset(tmp_path, card, GOOD + "train,gone.png,hi,c,1\n" * 1000))
    assert len(caught.value.errors) == 8


def test_a_dataset_that_leaves_out_bad_rows_is_not_refused(tmp_path, card):
    check(dataset(tmp_path, card, f"{GOOD}test,two.png,hi,a,1\n", skip_bad_rows=True))


def test_the_pass_is_made_before_any_stage(tmp_path, own_card):
    with pytest.raises(DataError, match="row 3, column 'event'"):
        start(own_card, tmp_path)


def test_a_split_that_is_needed_and_empty_is_told_before_any_stage(tmp_path, own_card):
    (tmp_path / "manifest.csv").write_text("split,imu,event\ntrain,1 2,a\nval,3 4,b\n")
    start(own_card, tmp_path)
    with pytest.raises(DataError, match=r"split 'test' has no rows\.\n  why: rows: train 1, val 1\.\n  fix: add rows with split 'test'"):
        start(own_card, tmp_path, needed=("test",), skip_bad_rows=True)


def test_compress_asks_for_test_rows_before_it_exports(tmp_path, own_card, empty_cache):
    (tmp_path / "manifest.csv").write_text("split,imu,event\ntrain,1 2,a\nval,3 4,b\n")
    with pytest.raises(DataError, match="split 'test' has no rows"):  # the card's factory, which there is none of, is not looked for
        edgemm.compress(own_card, recipe="openvino-int8", data=tmp_path, output=tmp_path / "bundle")
    assert not empty_cache.exists()


@pytest.fixture
def own_card(tmp_path):
    (tmp_path / "manifest.csv").write_text("split,imu,event\ntrain,1 2,a\ntest,3 4,z\n")
    (tmp_path / "model.yaml").write_text(
        "factory: no.such.module:build\ninputs: {imu: {modality: sensor, shape: [2], rate_hz: 1}}\n"
        "outputs: {event: {task: classification, labels: [a, b]}}\n"
    )
    return tmp_path / "model.yaml"
