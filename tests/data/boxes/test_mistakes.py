"""Kinds of mistakes on boxes whose kind is plain to see, and against what mean average precision counts as right."""

import numpy as np
import pytest

from edgemm.data.boxes import average_precision as ap
from edgemm.data.boxes import mistakes
from edgemm.data.boxes.curves import at_threshold, precision_at_recalls
from tests.data.boxes.test_average_precision import LABELS, scenes

BOX = [10.0, 10.0, 30.0, 30.0]
HALF = [10.0, 10.0, 30.0, 18.0]  # overlaps BOX by 0.4
AWAY = [60.0, 60.0, 70.0, 80.0]


def kinds(detections, truth, thresholds=(0.5, 0.5)):
    found = mistakes.kinds([np.array(detections, np.float32).reshape(-1, 6)], np.array([truth], np.float32), np.array(thresholds))
    return {kind: count for kind, count in found.items() if count}


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([[0, 0.9, *BOX]], {"right": 1}),
        ([], {"missed": 1}),
        ([[0, 0.4, *BOX]], {"missed": 1}),
        ([[0, 0.9, *AWAY]], {"background": 1, "missed": 1}),
        ([[0, 0.9, *HALF]], {"loose box": 1}),
        ([[1, 0.9, *BOX]], {"wrong label": 1}),
        ([[1, 0.9, *HALF]], {"wrong label and loose": 1, "missed": 1}),
        ([[0, 0.8, *BOX], [0, 0.9, *BOX]], {"right": 1, "double": 1}),
        ([[0, 0.8, *BOX], [1, 0.9, *BOX]], {"right": 1, "wrong label": 1}),
    ],
)
def test_each_kind(detections, expected):
    assert kinds(detections, [[0, *BOX, 0], [-1] * 6]) == expected


def test_of_two_boxes_that_are_sure_the_surer_finds_and_the_other_is_double():
    moved = [12.0, 10.0, 32.0, 30.0]
    assert kinds([[0, 0.6, *BOX], [0, 0.9, *moved]], [[0, *BOX, 0]]) == {"right": 1, "double": 1}
    assert kinds([[0, 0.6, *BOX], [0, 0.9, *moved]], [[0, *BOX, 0], [0, *moved, 0]]) == {"right": 2}


def test_what_is_ignored_is_neither_found_nor_missed():
    assert kinds([[0, 0.9, *HALF], [0, 0.8, *BOX]], [[0, *BOX, 1]]) == {}
    assert kinds([[1, 0.9, *BOX]], [[0, *BOX, 1]]) == {"background": 1}
    assert kinds([[0, 0.9, *AWAY]], [[-1] * 6]) == {"background": 1}


def test_what_is_right_and_what_is_wrong_are_as_many_as_average_precision_counts():
    found, truth = scenes(80, seed=3)
    matched = ap.match(found, truth, LABELS)
    thresholds = np.array([ap.best_threshold(one)[0] for one in matched])
    counts = mistakes.kinds(found, truth, thresholds)
    told = [one.score >= threshold for one, threshold in zip(matched, thresholds, strict=True)]
    right = sum(int(one.hit[0][is_told].sum()) for one, is_told in zip(matched, told, strict=True))
    answered = sum(int(one.counted[0][is_told].sum()) for one, is_told in zip(matched, told, strict=True))
    assert counts["right"] == right > 50
    assert sum(counts.values()) - counts["missed"] == answered
    assert 0 < counts["missed"] <= sum(int(one.there.sum()) for one in matched) - right
    assert all(counts[kind] for kind in ("loose box", "wrong label", "background"))


def test_the_mean_of_a_curve_is_the_average_precision():
    found, truth = scenes(60, seed=5)
    for iou in (0, 5):
        for one in ap.match(found, truth, LABELS):
            curve = precision_at_recalls(one, iou=iou)
            assert curve.mean() == pytest.approx(ap.average_precision(one, np.ones((1, 60)), [iou])[0], abs=1e-12)
            assert (np.diff(curve) <= 0).all()


def test_a_label_without_boxes_has_no_curve_and_one_that_is_not_found_a_flat_one():
    matched = ap.match([np.array([[0, 0.9, *BOX]], np.float32)], np.array([[[1, *BOX, 0]]], np.float32), 2)
    assert np.isnan(precision_at_recalls(matched[0])).all()
    assert (precision_at_recalls(matched[1]) == 0).all()
    assert np.isnan(at_threshold(matched[0], 0.5)[1])
    assert at_threshold(matched[0], 0.5)[0] == 0.0
    assert at_threshold(matched[1], 0.5)[1] == 0.0


def test_precision_and_recall_at_the_threshold_make_its_f1():
    for one in ap.match(*scenes(60, seed=7), LABELS):
        threshold, f1 = ap.best_threshold(one)
        precision, recall = at_threshold(one, threshold)
        assert 2 * precision * recall / (precision + recall) == pytest.approx(f1)
