"""A recipe's gates: what is read, in which order, and every mistake by its words."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import gate, recipe
from edgemm.errors import EdgemmError


def card(*names):
    sensor = {"modality": "sensor", "shape": [2]}
    outputs = {"y": {"task": "classification", "labels": ["a", "b"]}}
    return cards.parse({"model": "m.onnx", "inputs": dict.fromkeys(names, sensor), "outputs": outputs})


def parse(gates, *names):
    return recipe.parse({"targets": {"onnxruntime": {}}, "gates": gates}, card=card(*(names or ("audio", "image", "depth"))))


GATE = {"run": "image", "after": "audio", "loss_points": 0.3}


def test_a_gate_and_its_floor_are_one_and_the_recipe_keeps_them():
    read = parse([GATE, {"run": "image", "every_s": 10}])
    assert read.gates == (gate.Wish("image", ("audio",), 0.3, 10.0),)
    again = recipe.parse(read.plain())
    assert (again.gates, again.sha256) == (read.gates, read.sha256)
    assert read.sha256 != parse([GATE]).sha256 != recipe.parse({"targets": {"onnxruntime": {}}}).sha256
    assert read.with_steps([], "other").gates == read.gates
    assert [parse([GATE | {"next_rows": rows}]).gates[0].next_rows for rows in (0, 500, None)] == [0, 500, None]


def test_gates_are_sorted_by_what_they_come_after():
    wishes = parse([{"run": "depth", "after": ["audio", "image"], "loss_points": 0.1}, GATE]).gates
    assert [wish.run for wish in wishes] == ["image", "depth"]
    assert gate.judges("depth", ["image", "depth"], ["audio", "image", "depth"]) == ("audio", "image")
    assert gate.judges("image", ["image", "depth"], ["audio", "image", "depth"]) == ("audio",)


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({}, "'gates' is not a list"),
        (["image"], "does not say which input"),
        ([GATE | {"run": "imag"}], "'imag' is no input of this model"),
        ([GATE | {"after": "adio"}], "'adio' is no input of this model"),
        ([GATE | {"los": 1}], "unknown key 'los'"),
        ([GATE | {"loss_points": 0}], "loss_points is 0, no number above 0"),
        ([GATE | {"loss_points": "much"}], "loss_points is 'much'"),
        ([{"run": "image", "after": "audio"}], "loss_points is missing"),
        ([GATE | {"every_s": -1}], "every_s is -1"),
        ([GATE | {"shadow": 2}], "shadow is 2, no number above 0 of at most 1"),
        ([GATE | {"next_rows": -1}], "next_rows is -1, no number of rows from 0 to 100000"),
        ([GATE | {"next_rows": 0.5}], "next_rows is 0.5"),
        ([GATE | {"after": []}], "after is empty"),
        ([GATE, GATE], "'image' has a gate already"),
        ([{"run": "image", "every_s": 10}], "no gate that it could be the floor of"),
        ([GATE, GATE | {"run": "audio", "after": "image"}], "the gates of image and audio wait for each other"),
        ([GATE | {"after": "image"}], "the gate of image waits for 'image' itself"),
        ([GATE | {"after": "image"}], "write another input in after"),
    ],
)
def test_what_cannot_be_is_told(gates, words):
    with pytest.raises(EdgemmError) as told:
        parse(gates)
    assert words in str(told.value)


def test_a_gate_on_the_only_input_is_refused():
    with pytest.raises(EdgemmError, match="a gate on 'image', the only input"):
        parse([GATE | {"after": "image"}], "image")


def test_the_gates_of_a_bundle_are_read_as_they_were_written_and_odd_ones_are_not():
    own = gate.Gate("image", ("audio",), "margin", 0.25, 0.3, 0.1, 0.29, gate.EXACT, 0.7, 2000, 0.01, 10.0)
    assert gate.read([own.plain()]) == [own]
    for key, value in {"criterion": "luck", "threshold": None, "limit": 0, "after": ["image"], "shadow": 3}.items():
        with pytest.raises((ValueError, TypeError, AttributeError)):
            gate.read([own.plain() | {key: value}])
