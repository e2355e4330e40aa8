"""User-written options against what a plugin's source declares."""

import ast
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemm.contracts.options import check, fits, in_words, selector_keys
from edgemm.contracts.plugins import Option
from edgemm.errors import CardError


def annotation(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def declared(**annotations: str) -> dict[str, Option]:
    return {name: Option(name, annotation(text), 0) for name, text in annotations.items()}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "int"),
        (3, "float"),
        (3.5, "float"),
        ("a", "str"),
        (True, "bool"),
        (None, "int | None"),
        (None, "None"),
        ([1, 2], "list[int]"),
        ([], "Sequence[str]"),
        ([1, "a"], "tuple[int, str]"),
        ([1, 2, 3], "tuple[int, ...]"),
        ({"a": 1}, "dict[str, int]"),
        ({"a": {"b": 1.5}}, "Mapping[str, dict[str, float]]"),
        ("ptq", "Literal['ptq', 'qat']"),
        ("ptq", "Literal['ptq']"),
        (object(), "SomethingElse"),
    ],
)
def test_a_value_of_the_declared_type_fits(value, text):
    assert fits(value, annotation(text))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "int"),
        (True, "float"),
        (1, "bool"),
        (1.5, "int"),
        ("3", "int"),
        (None, "int"),
        ("a", "list[str]"),
        ([1, "a"], "list[int]"),
        ([1], "tuple[int, str]"),
        ({"a": "b"}, "dict[str, int]"),
        ({1: 1}, "dict[str, int]"),
        ("pqt", "Literal['ptq', 'qat']"),
        (3, "str | None"),
    ],
)
def test_a_value_of_another_type_does_not(value, text):
    assert not fits(value, annotation(text))


def test_check_finds_every_mistake_and_names_the_place():
    options = {**declared(ratio="float", rounds="int"), "size": Option("size", annotation("int"))}
    errors = check({"ratoi": 0.5, "rounds": "many", "mine": 1}, options, "step 1 (thin)", CardError, skip=("mine",))
    assert [error.what for error in errors] == [
        "step 1 (thin): unknown key 'ratoi'.",
        "step 1 (thin).rounds: 'many' is not a whole number.",
        "step 1 (thin): 'size' is missing.",
    ]
    assert "did you mean 'ratio'?" in errors[0].fix


def test_check_accepts_what_is_right():
    assert check({"ratio": 1, "rounds": 3}, declared(ratio="float", rounds="int"), "x", CardError) == []


@pytest.mark.parametrize(("value", "shown"), [("CPU", "'CPU'"), ([1], "[1]"), (False, "false"), (None, "null"), (0, "0")])
def test_options_that_are_no_mapping_are_one_mistake(value, shown):
    assert [error.what for error in check(value, declared(ratio="float"), "targets.x", CardError)] == [
        f"targets.x: {shown} is not a mapping."
    ]


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ({"head": "fp32", "audio": "int8"}, "dict[Branch, str] | None", ["head", "audio"]),
        (None, "dict[Branch, str] | None", []),
        ({"a": 1}, "dict[str, int]", []),
    ],
)
def test_selectors_are_found_by_their_annotation(value, text, found):
    assert sorted(selector_keys(value, annotation(text))) == sorted(found)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name)), st.integers()))
def test_integers_pass_wherever_int_is_declared(values):
    assert check(values, declared(**dict.fromkeys(values, "int")), "x", CardError) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int", "a whole number"),
        ("float | None", "a number"),
        ("bool", "true or false"),
        ("None", "null"),
        ("str | list[str] | None", "text or a list of texts"),
        ("tuple[int, ...]", "a list of whole numbers"),
        ("tuple[int, str]", "a list of 2: a whole number, text"),
        ("Sequence[list[float]]", "a list of lists of numbers"),
        ("dict[Branch, float]", "a mapping of branches to numbers"),
        ("Literal['ptq']", "ptq"),
        ("Literal[8, 16] | None", "one of 8, 16"),
        ("Literal['revert', 'report'] | Retrainer", "one of revert, report or qat"),
    ],
)
def test_an_annotation_is_told_without_python(text, words):
    assert in_words(annotation(text)) == words


@pytest.mark.parametrize(
    ("value", "text", "what", "fix"),
    [
        ("ptqq", "Literal['ptq']", "x.key: unknown value 'ptqq'.", "did you mean 'ptq'? known: ptq."),
        ("atuo", "dict[Branch, str] | Literal['auto'] | None", "x.key: unknown value 'atuo'.", "or write a mapping of branches to texts."),
        ("quantize", "Literal['report'] | Retrainer", "x.key: unknown value 'quantize'.", "known: qat, report."),
        ("lots", "float | None", "x.key: 'lots' is not a number.", "write a number."),
        (True, "int", "x.key: true is not a whole number.", "write a whole number."),
        (None, "list[str]", "x.key: null is not a list of texts.", "write a list of texts."),
    ],
)
def test_a_wrong_value_is_refused_in_words(value, text, what, fix):
    (error,) = check({"key": value}, declared(key=text), "x", CardError)
    assert error.what == what
    assert error.fix.endswith(fix)
