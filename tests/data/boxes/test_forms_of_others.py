"""Forms of TensorFlow's models and of YuNet."""

from dataclasses import replace

import numpy as np

from edgemm.data.boxes import forms
from edgemm.data.boxes.layout import Layout

FLAT = Layout("levels", 1, {"boxes": ("boxes",), "scores": ("scores",)}, 100, 50, "yxyx", "ratio")


def test_y_first_is_turned_before_it_becomes_pixels():
    answers = {"boxes": np.array([[[0.1, 0.2, 0.5, 0.8]]], np.float32), "scores": np.array([[[0.5]]], np.float32)}
    boxes, _ = forms.decode(answers, FLAT)
    np.testing.assert_allclose(boxes[0, 0], [20, 5, 80, 25], rtol=1e-6)


def test_a_score_is_the_root_of_itself_and_its_objectness_where_the_card_says_so():
    layout = replace(FLAT, parts={**FLAT.parts, "objectness": ("sure",)})
    answers = {
        "boxes": np.zeros((1, 1, 4), np.float32),
        "scores": np.full((1, 1, 1), 0.32, np.float32),
        "sure": np.full((1, 1, 1), 0.5, np.float32),
    }
    for objectness, expected in (("product", 0.16), ("root", 0.4)):
        _, scores = forms.decode(answers, replace(layout, objectness=objectness))
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
