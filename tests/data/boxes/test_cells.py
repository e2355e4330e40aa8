"""Boxes in the cells of a dataset: what is read, and what is refused."""

import numpy as np
import pytest

from edgemm.data.boxes import cells
from edgemm.errors import DataError

LABELS = ("person", "small parcel")


def test_a_cell_lists_boxes_with_labels_of_several_words():
    boxes = cells.read("person 1 2 3.5 4; small parcel 10,20,30,40 ignored;", LABELS, "objects")
    assert boxes.tolist() == [[0, 1, 2, 3.5, 4, 0], [1, 10, 20, 30, 40, 1]]
    assert cells.words("person 1 2 3.5 4; small parcel 10 20 30 40") == ["person", "small parcel"]


def test_a_dash_says_that_nothing_is_there_and_an_empty_cell_that_nobody_looked():
    assert cells.read("-", LABELS, "objects").shape == (0, 6)
    for cell in ("", None, float("nan")):
        with pytest.raises(DataError, match=r"empty(.|\n)*write - where there is nothing"):
            cells.read(cell, LABELS, "objects")


def test_an_array_holds_indices_of_labels():
    assert cells.read(np.array([[1, 0, 0, 5, 5]]), LABELS, "objects").tolist() == [[1, 0, 0, 5, 5, 0]]
    assert cells.read(np.zeros((0, 5)), LABELS, "objects").shape == (0, 6)
    with pytest.raises(DataError, match="no label has"):
        cells.read(np.array([[2, 0, 0, 5, 5]]), LABELS, "objects")


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ("persn 1 2 3 4", r"label 'persn' is not in the card(.|\n)*person"),
        ("person 1 2 3", r"'person 1 2 3' is no box(.|\n)*label x0 y0 x1 y1"),
        ("person 1 2 three 4", "is no box"),
        ("person 5 2 5 4", "has no area"),
        ("person 5 2 4 4", r"has no area(.|\n)*not x y width height"),
        ("person 1 2 3 4; person 1 2 3 4", "stands there twice"),
        (7, "it holds int 7"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused(cell, what):
    with pytest.raises(DataError, match=what):
        cells.read(cell, LABELS, "objects")


def test_boxes_lie_inside_their_picture():
    inside = cells.require_inside(cells.read("person 0 -0.5 64.9 40", LABELS, "objects"), 64, 48)
    assert inside[0, 1:5].tolist() == [0, 0, 64, 40]
    with pytest.raises(DataError, match=r"the box 1 2 90 4 lies outside of its picture(.|\n)*64 x 48 pixels"):
        cells.require_inside(cells.read("person 1 2 90 4", LABELS, "objects"), 64, 48)
    with pytest.raises(DataError, match=r"the boxes end at 0.9 in a picture of 64 x 48(.|\n)*multiply x by 64"):
        cells.require_inside(cells.read("person 0.1 0.2 0.5 0.9", LABELS, "objects"), 64, 48)


def test_a_truth_is_padded_and_has_room_for_so_many():
    truth = cells.padded(cells.read("person 1 2 3 4", LABELS, "objects"), 3)
    assert truth.dtype == np.float32
    assert truth[:, 0].tolist() == [0, -1, -1]
    with pytest.raises(DataError, match=r"holds 2 boxes(.|\n)*room for 1(.|\n)*truths: 2"):
        cells.padded(np.zeros((2, 6)), 1)
