"""Boxes: which places answer for which box, losses of every form, and what a teacher says."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgemm.contracts import card_file as cards  # noqa: E402  (torch may be absent)
from edgemm.data.boxes import forms  # noqa: E402
from edgemm.data.boxes.layout import Layout  # noqa: E402
from edgemm.workshop.training import loss as losses  # noqa: E402
from edgemm.workshop.training.losses._detection import dense  # noqa: E402
from edgemm.workshop.training.losses._detection.assignment import Truth, assign  # noqa: E402
from edgemm.workshop.training.losses._detection.dense import Answered  # noqa: E402
from edgemm.workshop.training.losses._detection.overlap import complete_iou, iou  # noqa: E402

SIZE, LABELS, PLACES = 32, 3, 16 + 4
STRIDES = (8, 16)
TRUTH = torch.tensor(
    [
        [[0, 2, 2, 14, 13, 0], [2, 17, 15, 30, 31, 0], [-1, 0, 0, 0, 0, 0]],
        [[1, 9, 8, 23, 25, 0], [1, 0, 0, 7, 7, 1], [-1, 0, 0, 0, 0, 0]],
    ],
    dtype=torch.float32,
)
JOINED = {"joined": ("y",)}
FORMS = {
    "cxcywh": Layout("yolo", LABELS, JOINED, SIZE, SIZE),
    "xyxy": Layout("yolo", LABELS, JOINED, SIZE, SIZE, form="xyxy"),
    "ratio": Layout("yolo", LABELS, JOINED, SIZE, SIZE, unit="ratio"),
    "ltrb": Layout("yolo", LABELS, JOINED, SIZE, SIZE, form="ltrb", unit="stride", strides=STRIDES),
    "dfl": Layout("yolo", LABELS, JOINED, SIZE, SIZE, form="dfl", unit="stride", bins=8, strides=STRIDES, scores="sigmoid"),
    "objectness": Layout("objectness", LABELS, JOINED, SIZE, SIZE, form="grid", unit="stride", strides=STRIDES, scores="sigmoid"),
    "softmax": Layout("yolo", LABELS, JOINED, SIZE, SIZE, scores="softmax_with_nothing", nothing="last"),
}


def grid():
    middles, _ = forms.places(FORMS["ltrb"], (), PLACES)
    return torch.from_numpy(middles)


def around(middles, half=6.0):
    """A box around each place, of every row of the truth."""
    return torch.cat([middles - half, middles + half], 1).expand(2, -1, -1)


def test_boxes_that_share_nothing_are_drawn_together():
    far = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    goal = torch.tensor([[20.0, 10.0, 26.0, 18.0]])
    assert iou(far, goal) == 0
    (1 - complete_iou(far, goal)).sum().backward()
    assert (far.grad[0, :2] + far.grad[0, 2:] < 0).all(), "its middle goes to the right and down"


def test_complete_overlap_is_one_for_equal_boxes_and_less_for_what_is_apart_or_of_another_shape():
    box = torch.tensor([10.0, 10.0, 20.0, 20.0])
    assert complete_iou(box, box) == pytest.approx(1, abs=1e-5)
    moved, flat = torch.tensor([12.0, 10.0, 22.0, 20.0]), torch.tensor([5.0, 12.5, 25.0, 17.5])
    assert iou(box, moved) == pytest.approx(80 / 120)
    assert complete_iou(box, moved) == pytest.approx(80 / 120 - 4 / (12**2 + 10**2), abs=1e-5)
    slope = 4 / math.pi**2 * (math.pi / 4 - math.atan(4)) ** 2
    shared = 50 / 150
    assert complete_iou(box, flat) == pytest.approx(shared - slope**2 / (1 - shared + slope), abs=1e-4)


def test_a_box_is_answered_for_by_places_within_it_and_by_the_best_of_them_in_full():
    middles, truth = grid(), Truth.of(TRUTH)
    boxes, scores = around(middles), torch.full((2, PLACES, LABELS), 0.1)
    assigned = assign(boxes, scores, middles, truth)
    for row, place in zip(*assigned.is_taken.nonzero(as_tuple=True), strict=True):
        own = assigned.boxes[row, place]
        assert (middles[place] > own[:2]).all()
        assert (middles[place] < own[2:]).all()
    best = iou(truth.boxes[0, 0], boxes[0]).max()
    assert assigned.scores[0, :, 0].max() == pytest.approx(float(best), abs=1e-4)
    assert not assigned.scores[0, :, 1].any(), "nobody asks for that label here"
    assert not assigned.scores[~assigned.is_taken].any()


def test_the_place_that_scores_and_covers_better_is_preferred():
    middles = grid()
    scores = torch.full((2, PLACES, LABELS), 0.1)
    inside = assign(around(middles), scores, middles, Truth.of(TRUTH)).scores[0, :, 0].nonzero().flatten()
    scores[0, inside[-1], 0] = 0.9
    wanted = assign(around(middles), scores, middles, Truth.of(TRUTH)).scores[0, :, 0]
    assert len(inside) > 1
    assert wanted.argmax() == inside[-1]


def test_places_in_an_ignored_box_do_not_count_and_padding_asks_for_nothing():
    middles = grid()
    assigned = assign(around(middles), torch.full((2, PLACES, LABELS), 0.1), middles, Truth.of(TRUTH))
    ignored = ((middles < 7).all(1)).nonzero().flatten()
    assert len(ignored)
    assert not assigned.counts[1, ignored].any()
    assert assigned.counts[0].all()
    nothing = assign(around(middles), torch.full((2, PLACES, LABELS), 0.1), middles, Truth.of(torch.full((2, 5, 6), -1.0)))
    assert not nothing.is_taken.any()
    assert nothing.counts.all()


def test_a_box_smaller_than_a_cell_is_answered_for_by_the_nearest_place():
    truth = Truth.of(torch.tensor([[[1, 0.5, 0.5, 2.5, 2.5, 0]]]))
    middles = grid()
    taken = assign(around(middles)[:1], torch.full((1, PLACES, LABELS), 0.1), middles, truth).is_taken[0]
    assert taken.nonzero().flatten().tolist() == [0]


def test_a_place_that_two_boxes_want_goes_to_the_one_it_covers_better():
    truth = Truth.of(torch.tensor([[[0, 0, 0, 16, 16, 0], [1, 2, 2, 14, 14, 0]]], dtype=torch.float32))
    middles = grid()
    boxes = torch.tensor([2.0, 2.0, 14.0, 14.0]).expand(1, PLACES, 4)
    assigned = assign(boxes, torch.full((1, PLACES, LABELS), 0.1), middles, truth)
    assert (assigned.boxes[assigned.is_taken] == truth.boxes[0, 1]).all()


@pytest.mark.parametrize("form", FORMS)
def test_answers_of_every_form_can_be_learned(form):
    """Free numbers instead of a model: after some steps the best place of every box says its label and covers it."""
    layout = FORMS[form]
    torch.manual_seed(0)
    (width,) = layout.widths("joined")
    raw = torch.randn(2, width, PLACES) * 0.1
    if layout.form in ("cxcywh", "xyxy"):  # what a head makes of its places, in pixels
        edges = around(grid()).transpose(1, 2)
        middles, sides = (edges[:, :2] + edges[:, 2:]) / 2, edges[:, 2:] - edges[:, :2]
        raw[:, :4] = {"xyxy": edges, "ratio": torch.cat([middles, sides], 1) / SIZE}.get(form, torch.cat([middles, sides], 1))
    free = raw.requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.05)

    def answered():
        scores = free[:, 4:].sigmoid() if layout.scores == "probability" else free[:, 4:]
        boxes = free[:, :4] if form != "ltrb" else free[:, :4].exp()
        joined = free if form == "dfl" else torch.cat([boxes, scores], 1)
        return Answered.of({"y": joined}, layout)

    first = dense.supervised(answered(), TRUTH, layout).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = dense.supervised(answered(), TRUTH, layout)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 3
    found = answered()
    for row, box in ((0, TRUTH[0, 0]), (0, TRUTH[0, 1]), (1, TRUTH[1, 0])):
        place = found.scores[row, :, int(box[0])].argmax()
        assert found.scores[row, place].argmax() == int(box[0])
        assert found.scores[row, place, int(box[0])] > 0.5
        assert iou(found.boxes[row, place], box[1:5]) > 0.8


def test_bins_of_a_distance_are_drawn_to_both_sides_of_it():
    layout = FORMS["dfl"]
    wide, sharp = torch.zeros(2, 4 * 8 + LABELS, PLACES), torch.zeros(2, 4 * 8 + LABELS, PLACES)
    raw = Answered.of({"y": wide}, layout)
    assert dense.supervised(raw, TRUTH, layout).isfinite()
    middles, strides = (torch.from_numpy(array) for array in forms.places(layout, (), PLACES))
    truth = TRUTH[:, :1]
    edges = torch.cat([middles - truth[..., 1:3], truth[..., 3:5] - middles], -1) / strides[:, None]
    for bin_ in range(8):
        share = (1 - (edges - bin_).abs()).clamp(min=1e-6)  # (2, A, 4): linear between the two bins beside it
        sharp[:, [bin_, 8 + bin_, 16 + bin_, 24 + bin_]] = share.log().transpose(1, 2)
    sure = Answered.of({"y": sharp}, layout)
    inside = (edges > 0).all(-1)
    torch.testing.assert_close(sure.boxes[inside], truth[..., 1:5].expand(2, PLACES, 4)[inside], atol=0.05, rtol=0)
    assert dense.supervised(sure, truth, layout) < dense.supervised(raw, truth, layout)


def test_where_the_card_names_no_strides_places_are_found_by_their_number_else_by_the_boxes():
    known = Layout("yolo", LABELS, JOINED, SIZE, SIZE)
    answered = Answered.of({"y": torch.rand(2, 4 + LABELS, PLACES)}, known)
    torch.testing.assert_close(dense.middles_of(answered, known), grid())
    other = Answered.of({"y": torch.rand(2, 4 + LABELS, 19)}, known)
    torch.testing.assert_close(dense.middles_of(other, known), (other.boxes[..., :2] + other.boxes[..., 2:]) / 2)


def taught(scores, boxes=None):
    boxes = torch.zeros(len(scores), PLACES, 4) + torch.tensor([0.0, 0.0, 8.0, 8.0]) if boxes is None else boxes
    layout = FORMS["xyxy"]
    return Answered.of({"y": torch.cat([boxes, scores], 2).transpose(1, 2)}, layout)


def test_a_teacher_is_imitated_where_it_is_sure_and_where_the_student_is():
    teacher_scores = torch.full((1, PLACES, LABELS), 0.001)
    teacher_scores[0, 3, 1] = 0.9
    teacher = taught(teacher_scores)
    assert dense.imitation(teacher, teacher) == pytest.approx(0, abs=1e-5)
    missed, wrong, noisy = (teacher_scores.clone() for _ in range(3))
    missed[0, 3, 1] = 0.1
    wrong[0, 10, 2] = 0.9
    noisy[0, 10:] = 0.002
    far = dense.imitation(taught(missed), teacher)
    assert far > 0.1
    assert dense.imitation(taught(wrong), teacher) > 0.1
    assert dense.imitation(taught(noisy), teacher) < 0.001
    boxes = teacher.boxes.clone()
    boxes[0, 4] += 3
    assert dense.imitation(taught(teacher_scores, boxes), teacher) == pytest.approx(0, abs=1e-5), "nobody is sure of that box"
    boxes[0, 3] += 3
    assert dense.imitation(taught(teacher_scores, boxes), teacher) > 1


def test_the_loss_of_a_card_reads_the_answer_in_the_cards_form():
    image = {"modality": "image", "height": SIZE, "width": SIZE, "channels": 1, "mean": [0.5], "std": [0.5]}
    options = {"task": "detection", "labels": ["a", "b", "c"], "frame": "image", "boxes": {"unit": "ratio"}}
    card = cards.parse({"factory": "own:build", "inputs": {"image": image}, "outputs": {"y": options}})
    loss = losses.of(card.outputs["y"])
    right = torch.zeros(2, 4 + LABELS, PLACES)
    middles = np.asarray(grid())
    for row in range(2):
        for label, x0, y0, x1, y1, ignored in TRUTH[row].tolist():
            if label >= 0 and not ignored:
                within = (middles > (x0, y0)).all(1) & (middles < (x1, y1)).all(1)
                box = torch.tensor([x0 + x1, y0 + y1, 2 * (x1 - x0), 2 * (y1 - y0)]) / (2 * SIZE)
                right[row, :4, torch.from_numpy(within)] = box[:, None]
                right[row, 4 + int(label), torch.from_numpy(within)] = 1.0
    assert loss.learns
    assert loss.supervised({"y": right}, TRUTH) == pytest.approx(0, abs=1e-3)
    assert loss.supervised({"y": right.roll(1, 0)}, TRUTH) > 5
    assert loss.imitation({"y": right.roll(1, 0)}, {"y": right}, temperature=2.0) > 1


def test_cells_under_a_sure_box_are_what_is_seen():
    boxes = torch.tensor([[[0.0, 0, 16, 8], [8, 8, 32, 32], [0, 0, 32, 32]]])
    scores = torch.tensor([[[0.9, 0.1, 0.0], [0.0, 0.5, 0.2], [0.2, 0.1, 0.1]]])
    seen = dense.covered(Answered(boxes, scores, None), FORMS["xyxy"], (4, 4))
    expected = [[0.9, 0.9, 0, 0], [0, 0.5, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0, 0.5, 0.5, 0.5]]
    torch.testing.assert_close(seen, torch.tensor([expected]))
