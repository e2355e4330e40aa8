"""Measurements are learned in standard deviations of their truth."""

import pytest
import torch

from edgemm.contracts.card import Output
from edgemm.workshop.training.loss import of

LEVEL = Output("level", "regression")


def test_an_error_weighs_in_deviations_of_the_truth():
    truth, answer = torch.tensor([60.0, 70.0]), torch.tensor([[70.0], [70.0]])
    assert of(LEVEL, deviation=10.0).supervised({"level": answer}, truth) == pytest.approx(0.25)


def test_a_teacher_is_imitated_in_deviations_of_the_truth():
    student, teacher = torch.tensor([[60.0], [80.0]]), torch.tensor([70.0, 70.0])
    assert of(LEVEL, deviation=5.0).imitation({"level": student}, {"level": teacher}, temperature=2.0) == pytest.approx(4.0)
