"""The loss of a set: who answers for which box, and what is learned of it."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgemm.data.boxes.layout import Layout  # noqa: E402  (torch may be absent)
from edgemm.workshop.training.losses._detection import dense, sets  # noqa: E402
from edgemm.workshop.training.losses._detection.dense import Answered  # noqa: E402
from edgemm.workshop.training.losses._detection.overlap import general_iou, iou  # noqa: E402

LABELS, QUERIES, SIZE = 3, 5, 64
PARTS = {"boxes": ("boxes",), "scores": ("logits",)}
LAYOUTS = {
    "softmax_with_nothing": Layout(
        "set", LABELS, PARTS, SIZE, SIZE, unit="ratio", scores="softmax_with_nothing", nothing="last",
    ),
    "sigmoid": Layout("set", LABELS, PARTS, SIZE, SIZE, unit="ratio", scores="sigmoid"),
}  # fmt: skip
TRUTH = torch.tensor(
    [[[0, 4, 4, 30, 24, 0], [0, 40, 30, 60, 60, 0], [2, 10, 40, 26, 62, 0]], [[1, 9, 8, 23, 25, 0], [-1] + [0] * 5, [-1] + [0] * 5]],
    dtype=torch.float32,
)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 6), (6, 2), (5, 7), (0, 4)])
def test_the_cheapest_pairs_are_those_of_trying_all(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = rng.normal(size=shape)
        chosen = sets.cheapest(costs)
        pairs = [(row, column) for row, column in enumerate(chosen) if column >= 0]
        assert len({column for _, column in pairs}) == len(pairs) == min(shape)
        turned = costs if shape[0] <= shape[1] else costs.T
        ways = itertools.permutations(range(turned.shape[1]), turned.shape[0])
        least = min((sum(turned[row, column] for row, column in enumerate(way)) for way in ways), default=0.0)
        assert sum(costs[row, column] for row, column in pairs) == pytest.approx(least)


def test_general_overlap_falls_with_distance_where_nothing_is_shared():
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert general_iou(box, box) == pytest.approx(1, abs=1e-5)
    assert general_iou(box, torch.tensor([10.0, 0.0, 20.0, 10.0])) == pytest.approx(0, abs=1e-5)
    assert general_iou(box, torch.tensor([30.0, 0.0, 40.0, 10.0])) == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("scores", LAYOUTS)
def test_a_set_is_learned_and_holds_every_box_once(scores):
    layout = LAYOUTS[scores]
    torch.manual_seed(0)
    boxes = torch.randn(2, QUERIES, 4).requires_grad_()
    logits = torch.zeros(2, QUERIES, layout.score_width).requires_grad_()
    optimizer = torch.optim.Adam([boxes, logits], lr=0.05)

    def answered():
        return Answered.of({"boxes": boxes.sigmoid(), "logits": logits}, layout)

    first = sets.supervised(answered(), TRUTH, layout).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = sets.supervised(answered(), TRUTH, layout)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 5
    found = answered()
    assert (found.scores > 0.5).sum((1, 2)).tolist() == [3, 1]
    for row, box in [(0, TRUTH[0, 0]), (0, TRUTH[0, 1]), (0, TRUTH[0, 2]), (1, TRUTH[1, 0])]:
        overlaps = iou(found.boxes[row], box[1:5])
        assert overlaps.max() > 0.9
        assert found.scores[row, overlaps.argmax(), int(box[0])] > 0.5


def test_a_teacher_is_imitated_whatever_the_order_of_its_queries():
    layout = LAYOUTS["sigmoid"]
    torch.manual_seed(1)
    teacher = Answered.of({"boxes": torch.rand(2, QUERIES, 4), "logits": 4 * torch.randn(2, QUERIES, LABELS)}, layout)
    order = torch.tensor([3, 1, 4, 0, 2])
    student = Answered(teacher.boxes[:, order], teacher.scores[:, order], teacher.raw)
    assert dense.imitation(student, teacher) > 0.1
    assert dense.imitation(sets.in_order_of(student, teacher), teacher) == pytest.approx(0, abs=1e-5)
