"""Sensor windows: cells of several forms, normalisation, and values that are none."""

from pathlib import Path

import numpy as np
import pytest

from edgemm.contracts import frontend_ops
from edgemm.data.modalities.sensor import Sensor
from edgemm.data.modalities.tensor import Tensor
from edgemm.errors import CardError, DataError

WINDOW = [[1.0, 2.0], [3.0, 4.0], [5.5, -6e-1]]


@pytest.mark.parametrize(
    "cell",
    [
        "1 2 3 4 5.5 -6e-1",
        "1, 2, 3, 4, 5.5, -0.6",
        "1;2;3;4;5.5;-0.6",
        "1 2; 3 4; 5.5 -0.6",
        "[[1, 2], [3, 4], [5.5, -0.6]]",
        "[1, 2, 3, 4, 5.5, -0.6]",
        WINDOW,
        np.array(WINDOW),
        "window.npy",
    ],
)
def test_a_cell_may_hold_numbers_in_many_forms(tmp_path, cell):
    np.save(tmp_path / "window.npy", np.array(WINDOW, np.float64))
    got = Sensor(shape=[3, 2]).decode(cell, tmp_path)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, WINDOW, rtol=1e-6)


def test_forward_gets_each_channel_normalised_when_the_card_says_how():
    spec = Sensor(shape=[3, 2], mean=[1.0, 2.0], std=[2.0, 0.5])
    (got,) = frontend_ops.run(spec.frontend(), np.array([WINDOW], np.float32))
    np.testing.assert_allclose(got[0], (np.array(WINDOW) - [1, 2]) / [2, 0.5], rtol=1e-5)
    assert Sensor(shape=[3, 2]).frontend() == []


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("1 2 nan 4 5 6", r"the value at \[1, 0\] is nan\.\n  why: 1 of 6 values are not finite"),
        ([[1, 2], [3, None], [5, 6]], r"the value at \[1, 1\] is nan"),
        (np.full((3, 2), np.inf), r"the value at \[0, 0\] is inf\.\n  why: 6 of 6"),
        ("1e39 2 3 4 5 6", r"the value at \[0, 0\] is inf"),
        ("1 2 3", r"the cell holds 3 numbers in shape \(3,\), the card says \[3, 2\]\.\n  why: that is 6 numbers"),
        (np.zeros((2, 3)), r"the cell holds 6 numbers in shape \(2, 3\)"),
        ("1 2 three 4 5 6", "'three' is no number"),
        ("[1, 2", "is no list of numbers"),
        ([[1, 2], [3]], "holds lists of unequal length"),
        (["a", "b"], "values"),
        ("gone.npy", "'gone.npy' is missing"),
    ],
)
def test_cells_that_are_no_window_are_errors(tmp_path, cell, words):
    with pytest.raises(DataError, match=words):
        Sensor(shape=[3, 2]).decode(cell, tmp_path)


def test_a_npy_file_that_is_damaged_or_holds_objects_is_an_error(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    content = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(content.replace(b"(3, 2)", b"(3, 2 "))
    (tmp_path / "huge.npy").write_bytes(content.replace(b"(3, 2)", b"(3" + b"0" * 3 + b")"))
    for name in ("text.npy", "objects.npy", "header.npy", "huge.npy"):
        with pytest.raises(DataError, match=rf"{name}' is no readable \.npy file"):
            Sensor(shape=[3, 2]).decode(name, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": []}, r"shape is \[\]"),
        ({"shape": [3, 0]}, r"shape is \[3, 0\]"),
        ({"rate_hz": 0}, "rate_hz is 0"),
        ({"mean": [0.0, 0.0]}, "mean and std belong together"),
        ({"mean": [0.0], "std": [1.0]}, r"mean is \[0.0\]\.\n  why: shape \[3, 2\] has 2 channels"),
        ({"mean": [0.0, 0.0], "std": [1.0, 0.0]}, r"std is \[1.0, 0.0\]"),
        ({"mean": [0.0, 0.0], "std": [1.0, 1e-60]}, r"std is \[1.0, 1e-60\]"),
    ],
)
def test_impossible_options_are_card_errors(options, words):
    with pytest.raises(CardError, match=words):
        Sensor(**{"shape": [3, 2]} | options)


@pytest.mark.parametrize(("shape", "cell"), [([2], "1,5 2,5"), ([1], "0,25"), ([2, 1], "-1,5;3"), ([3], "1,0 2,5e-3\t4")])
def test_decimal_commas_are_told_where_they_would_fit(shape, cell):
    for part in (Sensor(shape=shape), Tensor(dtype="float32", shape=["batch", *shape])):
        with pytest.raises(DataError, match=r"as a decimal comma it would fit\.\n  fix: write decimal points: 1\.5 2\.5"):
            part.decode(cell, Path())
