"""Several labels, each learned by its yes and no."""

import pytest
import torch

from edgemm.contracts.card import Output
from edgemm.workshop.training.loss import of


def test_a_teacher_is_imitated_in_each_labels_yes_and_no():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    p, q = torch.sigmoid(teacher / 2), torch.sigmoid(student / 2)
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    loss = of(Output("tags", "multilabel", {"labels": ("x", "y")}))
    assert loss.imitation({"tags": student}, {"tags": teacher}, temperature=2.0) == pytest.approx(float(expected), rel=1e-5)
