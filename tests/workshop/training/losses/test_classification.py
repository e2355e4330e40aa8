"""Labels learned from their truth and from a teacher."""

import pytest
import torch

from edgemm.contracts.card import Output
from edgemm.workshop.training.loss import of

LABELS = Output("kind", "classification", {"labels": ("a", "b", "c")})


def imitation(output, student, teacher, temperature=2.0):
    return of(output).imitation({"kind": student}, {"kind": teacher}, temperature=temperature)


def test_labels_are_learned_by_the_softened_divergence_times_temperature_squared():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    expected = 9 * (p * (p / q).log()).sum(-1).mean()
    assert imitation(LABELS, student, teacher, temperature=3.0) == pytest.approx(float(expected), rel=1e-5)


def test_the_size_of_the_gradient_does_not_fall_with_the_temperature():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 3, requires_grad=True), torch.randn(6, 3)
    sizes = [torch.autograd.grad(imitation(LABELS, student, teacher, softened), student)[0].norm() for softened in (5.0, 50.0)]
    assert sizes[1] == pytest.approx(float(sizes[0]), rel=0.2)


def test_steps_count_one_by_one():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    per_step = imitation(LABELS.with_options(per_step=True), student, teacher)
    assert per_step == pytest.approx(float(imitation(LABELS, student.reshape(20, 3), teacher.reshape(20, 3))))
    truth = torch.randint(3, (5, 4))
    stepwise = of(LABELS).supervised({"kind": student}, truth)
    assert stepwise == pytest.approx(float(of(LABELS).supervised({"kind": student.reshape(20, 3)}, truth.reshape(20))))
