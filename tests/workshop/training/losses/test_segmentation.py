"""Pixels learned from their truth and from a teacher."""

import numpy as np
import pytest
import torch

from edgemm.contracts.card import Output
from edgemm.contracts.task import of as task_of
from edgemm.errors import TrainError
from edgemm.workshop.training.loss import of

AREA = Output("area", "segmentation", {"labels": ("ground", "circle", "square")})


@pytest.fixture
def truth():
    torch.manual_seed(0)
    labels = torch.randint(3, (4, 4, 5)).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    labels[0, :3] = 255
    return labels


def right(truth, sure=9.0):
    return sure * torch.nn.functional.one_hot(torch.where(truth == 255, 0, truth).long(), 3).permute(0, 3, 1, 2).float()


def test_pixels_that_do_not_count_say_nothing(truth):
    torch.manual_seed(1)
    answer = torch.randn(4, 3, 16, 20, requires_grad=True)
    of(AREA).supervised({"area": answer}, truth).backward()
    assert (answer.grad[0, :, :3] == 0).all()
    assert (answer.grad[0, :, 3:] != 0).any()
    nothing = of(AREA).supervised({"area": answer}, torch.full_like(truth, 255))
    assert torch.isfinite(nothing)


def test_it_is_nothing_for_right_answers_and_cross_entropy_plus_what_masks_do_not_share_for_others(truth):
    loss = of(AREA)
    assert loss.supervised({"area": right(truth, 40.0)}, truth) == pytest.approx(0.0, abs=1e-5)
    torch.manual_seed(1)
    answer = torch.randn(4, 3, 16, 20)
    entropy = torch.nn.functional.cross_entropy(answer, truth.long(), ignore_index=255)
    shares, counted, dice = answer.softmax(1), truth != 255, []
    for label in range(3):
        true, said = ((truth == label) & counted).float(), shares[:, label] * counted
        dice.append((2 * (true * said).sum() + 1) / (true.sum() + said.sum() + 1))
    expected = entropy + 1 - torch.stack(dice).mean()
    assert loss.supervised({"area": answer}, truth) == pytest.approx(float(expected), rel=1e-5)


def test_a_coarser_answer_is_drawn_to_the_truth_as_the_metric_does(truth):
    coarse = right(truth[:, 2::4, 2::4], 40.0)
    drawn = torch.nn.functional.interpolate(coarse, size=(16, 20), mode="bilinear", align_corners=False)
    loss = of(AREA)
    assert loss.supervised({"area": coarse}, truth) == pytest.approx(float(loss.supervised({"area": drawn}, truth)))
    assert task_of(AREA).measure({"area": coarse.numpy()}, truth.numpy()).value() > 0.9
    assert loss.imitation({"area": coarse}, {"area": drawn}, temperature=1.0) == pytest.approx(0.0, abs=1e-6)


def test_a_few_steps_along_its_gradient_raise_the_metric(truth):
    torch.manual_seed(0)
    answer = torch.randn(4, 3, 16, 20, requires_grad=True)
    optimizer = torch.optim.Adam([answer], 0.3)
    scores = []
    for _ in range(15):
        scores.append(task_of(AREA).measure({"area": answer.detach().numpy()}, truth.numpy()).value())
        optimizer.zero_grad()
        of(AREA).supervised({"area": answer}, truth).backward()
        optimizer.step()
    assert scores[-1] > 0.95 > 0.5 > scores[0]


def test_numbers_of_labels_cannot_be_learned(truth):
    with pytest.raises(TrainError, match="the number of the best label says nothing of the others"):
        of(AREA).supervised({"area": torch.from_numpy(np.zeros((4, 16, 20), np.float32))}, truth)
