"""Words in cards, recipes and run.yaml stay as they were written."""

import pytest
import yaml

from edgemm.box.serving import run_yaml
from edgemm.contracts import card_file as cards
from edgemm.contracts import recipe, written
from edgemm.data.labels import index_of, sorted_labels, word_of
from edgemm.errors import CardError, DataError, EdgemmError

WORDS = "off on yes no Yes NO false true False null ~ 007 010 0x10 0o7 1_0 12:30 1e3 1.0 1. .5 +1 2024-01-01 .inf .nan y n".split()  # noqa: SIM905
CARD = """
factory: a:b
inputs: {{no: {{modality: sensor, shape: [3]}}}}
outputs:
  on: {{task: classification, labels: [{labels}]}}
  007: {{task: regression, unit: 1e3}}
columns: {{2024-01-01: no, off: on}}
"""


def card_of(text, tmp_path):
    (tmp_path / "model.yaml").write_text(text)
    return cards.load(tmp_path / "model.yaml")


def test_labels_and_names_of_a_card_are_the_words_that_stand_there(tmp_path):
    card = card_of(CARD.format(labels=", ".join(WORDS)), tmp_path)
    assert list(card.outputs["on"].labels) == WORDS
    assert (list(card.inputs), list(card.outputs), card.outputs["007"].unit) == (["no"], ["on", "007"], "1e3")
    assert card.columns == {"2024-01-01": "no", "off": "on"}


def test_a_card_that_was_written_reads_back_the_same(tmp_path):
    card = card_of(CARD.format(labels=", ".join(WORDS)), tmp_path).replace(kwargs={"mode": "1e3", "names": ["off", "0o7", "12:30"]})
    again = card_of(card.to_yaml(), tmp_path)
    assert again == card
    assert yaml.safe_load(card.to_yaml())["outputs"]["on"]["labels"] == WORDS, "what speaks YAML 1.1 reads the same"


def test_numbers_and_truth_stay_what_they_are_where_no_word_is_meant():
    plain = written.load("{a: 1, b: 1e-3, c: true, d: yes, e: null, f: 0x10, g: 12:30, h: 2024-01-01, i: 1_000, j: 010, k: off}")
    assert plain == {
        "a": 1, "b": 0.001, "c": True, "d": True, "e": None, "f": 16, "g": "12:30", "h": "2024-01-01", "i": "1_000", "j": 10, "k": False,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "&x [*x]", "!!python/object:os.system {}", "{? [1] : 2}", "- a\nb: c"])
def test_what_is_no_plain_value_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        written.load(text)


def test_a_switch_that_is_neither_true_nor_false_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"optional: 'maybe' is not true or false"):
        card_of("{factory: a:b, inputs: {x: {modality: sensor, shape: [3], optional: maybe}}, outputs: {y: {task: tensor}}}", tmp_path)


def test_run_yaml_keeps_its_words(tmp_path):
    card = card_of(
        "{factory: a:b, inputs: {x: {modality: sensor, shape: [3]}}, outputs: {y: {task: classification, labels: [off, 007]}}}", tmp_path
    )
    text = "{name: 007, sources: [{stream: {inputs: x, url: 007}}], decisions: {y: {quiet: [off], classes: {007: {threshold: 1e-1}}}}}"
    (tmp_path / "run.yaml").write_text(text)
    settings = run_yaml.load(tmp_path / "run.yaml", card)
    assert (settings.name, settings.sources[0].options["url"], settings.decisions["y"].quiet) == ("007", "007", ["off"])
    assert settings.decisions["y"].classes == {"007": {"threshold": 0.1}}


@pytest.mark.parametrize(
    ("labels", "cell", "index"),
    [
        (("0", "1"), "1.0", 1), (("0", "1"), 0.0, 0), (("0.0", "1.0"), "1", 1), (("1.5", "2.5"), "2.50", 1), (("off", "on"), True, 1),
        (("False", "True"), False, 0), (("no", "yes"), True, 1), (("off", "on"), "on", 1), (("007", "010"), "010", 1),
        (("1.0", "1"), "1.0", 0), (("null", "a"), "null", 0), (("10", "2"), "2.0", 1),
    ],
)  # fmt: skip
def test_a_cell_means_the_label_of_the_same_word_or_number(labels, cell, index):
    assert index_of(cell, labels, "y") == index


@pytest.mark.parametrize(("labels", "cell"), [(("007", "010"), "7"), (("0", "1"), "1_0"), (("0", "1"), "0x1")])
def test_where_data_and_card_differ_both_are_told(labels, cell):
    with pytest.raises(DataError, match=f"label '{cell}' is not in the card") as caught:
        index_of(cell, labels, "y")
    assert ", ".join(labels) in str(caught.value)


def test_a_number_found_in_the_data_is_one_label_however_it_is_written():
    assert sorted_labels(map(word_of, ["1.0", "1", 1, 0.0, "0", "2.50", "2.5"]), "y", "data") == ("0", "1", "2.5")
    assert sorted_labels(map(word_of, ["007", "7"]), "y", "data") == ("007", "7")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 3000, "nested too deep"), ("{a: " * 3000, "nested too deep"), ("x: !!timestamp 2020-13-45", "month must be"),
        ("x: !!timestamp then", "cannot be read"), ("x: !!int one", "invalid literal"), (f"x: {'9' * 5000}", "4300 digits"),
        ("x: !!python/object:os.system {}", "could not determine a constructor"),
    ],
    ids=lambda value: value[:18],
)  # fmt: skip
def test_what_python_cannot_hold_is_yaml_that_is_wrong(text, why):
    with pytest.raises(yaml.YAMLError, match=why):
        written.load(text)


@pytest.mark.parametrize("load", [cards.load, recipe.load])
def test_a_file_that_is_a_single_word_is_told(tmp_path, load):
    (tmp_path / "x.yaml").write_text("word")
    with pytest.raises(EdgemmError, match=r"is (not )?a mapping"):
        load(tmp_path / "x.yaml")


def test_a_mapping_may_change_what_it_merges():
    plain = written.load("a: &a {x: 1, y: [off]}\nb: {<<: *a, y: [on], z: 3}\nc: *a\n", lambda plain, path: path[1:2] == ("y",))
    assert plain == {"a": {"x": 1, "y": ["off"]}, "b": {"x": 1, "y": ["on"], "z": 3}, "c": {"x": 1, "y": ["off"]}}
    with pytest.raises(yaml.YAMLError, match="'z' stands there twice"):
        written.load("a: &a {x: 1}\nb: {<<: *a, z: 2, z: 3}\n")
