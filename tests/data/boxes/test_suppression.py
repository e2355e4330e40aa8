"""Of boxes over each other the best one stays, of each label apart."""

import numpy as np
import pytest

from edgemm.data.boxes import geometry, suppression

ALL = {"iou": 0.5, "score": 0.1, "most": 100}


def test_the_better_of_two_that_overlap_stays_and_another_label_beside_it():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [30, 30, 40, 40]], np.float32)
    scores = np.array([[0.6, 0], [0.9, 0], [0, 0.7], [0.05, 0]], np.float32)
    kept = suppression.suppress(boxes, scores, **ALL)
    assert kept == pytest.approx(np.array([[0, 0.9, 1, 0, 11, 10], [1, 0.7, 0, 0, 10, 10]], np.float32))


def plain(boxes: np.ndarray, scores: np.ndarray, iou: float, score: float) -> list[tuple[float, int, int]]:
    """The definition, label by label and box by box."""
    kept = []
    for label in range(scores.shape[1]):
        own = list[int]()
        for place in sorted(range(len(boxes)), key=lambda place: -scores[place, label]):
            if scores[place, label] > score and all(geometry.iou(boxes[[place]], boxes[[other]])[0, 0] <= iou for other in own):
                own.append(place)
        kept += [(-float(scores[place, label]), label, place) for place in own]
    return sorted(kept)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_the_definition_says(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 50, (80, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (80, 2))], axis=1).astype(np.float32)
    scores = rng.uniform(0, 1, (80, 3)).astype(np.float32)
    kept = suppression.suppress(boxes, scores, iou=0.4, score=0.3, most=1000)
    expected = plain(boxes, scores, 0.4, 0.3)
    assert kept[:, 1] == pytest.approx([-worth for worth, _, _ in expected])
    assert kept[:, 2:] == pytest.approx(boxes[[place for _, _, place in expected]])
    assert np.array_equal(suppression.suppress(boxes, scores, iou=0.4, score=0.3, most=7), kept[:7])


def test_of_many_candidates_the_best_are_looked_at():
    boxes = np.arange(100, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    scores = np.linspace(0.2, 0.9, 100, dtype=np.float32)[:, None]
    kept = suppression.suppress(boxes, scores, **ALL, candidates=5)
    assert kept[:, 1] == pytest.approx(scores[:-6:-1, 0])


def test_boxes_that_are_no_numbers_are_left_out():
    boxes = np.array([[np.nan, 0, 1, 1], [0, 0, 4, 4]], np.float32)
    assert suppression.suppress(boxes, np.full((2, 1), 0.5, np.float32), **ALL)[:, 2:].tolist() == [[0, 0, 4, 4]]
    assert suppression.suppress(boxes, np.full((2, 1), np.nan, np.float32), **ALL).shape == (0, 6)


def test_a_set_keeps_what_overlaps_and_each_thing_has_one_label_or_several():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]], np.float32)
    scores = np.array([[0.6, 0.3], [0.2, 0.5]], np.float32)
    one = suppression.best(boxes, scores, score=0.0, most=8, one_each=True)
    several = suppression.best(boxes, scores, score=0.25, most=8, one_each=False)
    assert one[:, :2] == pytest.approx(np.array([[0, 0.6], [1, 0.5]]))
    assert several[:, :2] == pytest.approx(np.array([[0, 0.6], [1, 0.5], [1, 0.3]]))
