"""JSON from elsewhere: one kind of error, whatever is wrong."""

import pytest

from edgemm.store import json_text


@pytest.mark.parametrize(
    ("text", "why"),
    [("[" * 100_000, "nested too deeply"), ('{"a":' * 100_000, "nested too deeply"), ("9" * 5000, "4300 digits"), ("{", "Expecting")],
)
def test_whatever_is_wrong_is_a_value_error(text, why):
    with pytest.raises(ValueError, match=why):
        json_text.loads(text)


def test_what_is_right_is_read_as_json_does():
    assert json_text.loads(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
