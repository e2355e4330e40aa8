"""Heat maps learned from points and from a teacher."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.contracts.card_file import parse
from edgemm.contracts.task import Cells
from edgemm.contracts.task import of as task_of
from edgemm.errors import TrainError
from edgemm.workshop.training.loss import of

CELLS = ("triangle 10.4 8 2 20 17.7 2 3.9 16.2 1", "triangle 36 26.1 2 44.3 40 2 28 41.5 2; triangle 10 9 2 20 18 2 4 17 0", "-")


def output(layout, **options):
    picture = {"modality": "image", "height": 48, "width": 48, "channels": 3}
    pose = {"task": "keypoints", "labels": ["triangle"], "points": ["top", "right", "left"], "frame": "image", "layout": layout, **options}
    return parse({"factory": "own:build", "inputs": {"image": picture}, "outputs": {"pose": pose}}).outputs["pose"]


def truth_of(spec):
    beside = Cells(Path(), {"image": np.zeros((48, 48, 3), np.uint8)})
    return torch.from_numpy(np.stack([task_of(spec).truth(cell, beside) for cell in CELLS]))


@pytest.mark.parametrize(("layout", "maps"), [("heatmaps", 3), ("centres", 10)])
def test_following_its_gradient_ends_in_the_very_points(layout, maps):
    spec = output(layout)
    truth = truth_of(spec)[:: 2 if layout == "heatmaps" else 1]  # heat maps alone hold one object a picture
    answer = torch.full((len(truth), maps, 24, 24), -4.0)
    answer[:, 4:] = 0.0
    answer.requires_grad_()
    optimizer = torch.optim.Adam([answer], 0.3)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = of(spec).supervised({"pose": answer}, truth)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    found = task_of(spec).measure({"pose": answer.detach().numpy()}, truth.numpy()).value()
    assert found > 0.99
    (pose,) = task_of(spec).found({"pose": answer[:1].detach().numpy()})[0][:1]
    assert pose[2:].reshape(3, 3)[:, :2] == pytest.approx(np.array([(10.4, 8), (20, 17.7), (3.9, 16.2)]), abs=0.3)


def test_a_picture_without_objects_wants_empty_maps_and_no_distances():
    spec = output("centres")
    truth = truth_of(spec)[2:]
    answer = torch.zeros(1, 10, 24, 24, requires_grad=True)
    of(spec).supervised({"pose": answer}, truth).backward()
    assert (answer.grad[:, :4] > 0).all()
    assert (answer.grad[:, 4:] == 0).all()


def test_a_point_that_nobody_knows_asks_for_no_distance():
    spec = output("centres")
    answer = torch.zeros(1, 10, 24, 24, requires_grad=True)
    of(spec).supervised({"pose": answer}, truth_of(spec)[1:2]).backward()
    near = answer.grad[0, 4:].reshape(3, 2, 24, 24)[:, :, 6, 6]  # the middle of the second triangle, whose third point is unknown
    assert (near[:2] != 0).any(1).all()
    assert (near[2] == 0).all()


def test_a_student_learns_the_teachers_maps_and_distances_where_it_sees_a_middle():
    torch.manual_seed(0)
    spec = output("centres")
    teacher = torch.full((2, 10, 24, 24), -9.0)
    teacher[:, 4:] = torch.randn(2, 6, 24, 24)
    teacher[0, 0, 5, 7] = teacher[0, 1, 3, 3] = 6.0
    student = torch.zeros(2, 10, 24, 24, requires_grad=True)
    of(spec).imitation({"pose": student}, {"pose": teacher}, temperature=2.0).backward()
    pull = student.grad.abs()
    assert student.grad[0, 0, 5, 7] < 0 < student.grad[0, 0, 0, 0]
    assert pull[0, 4:, 5, 7].min() > 100 * pull[0, 4:, 0, 0].max() > 0


def test_probabilities_are_learned_as_their_logits_are():
    torch.manual_seed(0)
    answer = torch.randn(3, 3, 24, 24)
    logits, shares = output("heatmaps"), output("heatmaps", scores="probability")
    wanted = of(logits).supervised({"pose": answer}, truth_of(logits))
    assert of(shares).supervised({"pose": answer.sigmoid()}, truth_of(shares)) == pytest.approx(float(wanted), rel=1e-4)


def test_a_list_can_only_imitate_and_another_shape_is_refused():
    assert not of(output("list")).learns
    answers = {"pose": torch.ones(1, 2, 10)}
    assert of(output("list")).imitation(answers, answers, temperature=1.0) == 0
    with pytest.raises(TrainError, match="layout: centres wants 10 maps"):
        of(output("centres")).supervised({"pose": torch.zeros(3, 3, 24, 24)}, truth_of(output("centres")))
