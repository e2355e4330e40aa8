"""What may run under which label."""

import pytest

from edgemm.box.measuring.candidate import is_less


@pytest.mark.parametrize(
    ("ran", "asked", "less"),
    [
        ("int8+f32", "f32", True),
        ("bf16+f32", "int8+f32", True),
        ("int8+f32", "w8+f32", True),
        ("int8+bf16", "default", False),
        ("int8+w8", "int8+f32", False),  # its weights are the same, its activations stay float
        ("w8+f32", "f32", True),
        ("f32+f64", "int8", False),
    ],
)
def test_what_is_less_precise_than_asked_may_not_stand_under_its_label(ran, asked, less):
    assert is_less(ran, asked) is less
