"""How well a picture was answered: plain cases."""

import numpy as np
import pytest

from edgemm.data.boxes import quality

BOX, AWAY = [10.0, 10.0, 30.0, 30.0], [60.0, 60.0, 70.0, 80.0]
HALF = [10.0, 10.0, 30.0, 18.0]  # overlaps BOX by 0.4


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ([[0, 0.9, *BOX]], 1.0),
        ([], 0.0),
        ([[0, 0.4, *BOX]], 0.0),
        ([[1, 0.9, *BOX]], 0.0),
        ([[0, 0.9, *HALF]], 0.0),
        ([[0, 0.9, *BOX], [0, 0.8, *AWAY]], 2 / 3),
        ([[0, 0.9, 10, 10, 30, 26]], 0.8),
    ],
)
def test_a_picture_with_one_box(answered, expected):
    truth = np.array([[[0, *BOX, 0], [-1] * 6]], np.float64)
    found = quality.of_boxes([np.array(answered, np.float64).reshape(-1, 6)], truth, np.array([0.5, 0.5]))
    assert found == pytest.approx([expected])


def test_nothing_in_an_empty_picture_is_right_and_what_is_ignored_does_not_count():
    nothing, crowd = np.full((2, 2, 6), -1.0), [0, *BOX, 1]
    nothing[1, 0] = crowd
    detections = [np.zeros((0, 6)), np.array([[0, 0.9, *BOX]])]
    assert quality.of_boxes(detections, nothing, np.array([0.5])).tolist() == [1.0, 1.0]
