"""Whatever stands in an input: an error that a user can read, or a result; never a traceback, a rest, a hang or a dead process."""

from collections.abc import Iterator

import pytest

from tests.fuzz.properties import KINDS, Fuzzing, check, fuzzing

EXAMPLES = {"card": 120, "recipe": 120, "manifest": 120, "run": 120, "bundle": 70, "sealed": 90, "onnx": 60, "played": 8}
"""Of every CI run; `make fuzz` tries thousands, and the two ways that take seconds an example."""


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzzing]:
    with fuzzing() as running:
        yield running


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_the_mutations_start_from_is_accepted(fuzz, kind):
    for source in fuzz.sources(kind):
        outcome = fuzz.good_outcome(kind, source)
        assert (outcome["code"], outcome["findings"]) == (0, []), outcome["text"]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_input_is_accepted_or_refused_in_words(fuzz, kind):
    check(fuzz, kind, EXAMPLES[kind])


def test_every_kind_has_its_share():
    assert sum(share for _, share in KINDS.values()) == 100
