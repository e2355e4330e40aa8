"""Values without a meaning can only be imitated."""

import pytest
import torch

from edgemm.contracts.card import Output
from edgemm.workshop.training.loss import of


def test_a_teacher_is_imitated_in_units_of_its_variance():
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 6), torch.randn(8, 6)
    loss = of(Output("raw", "tensor"))
    plain = loss.imitation({"raw": student}, {"raw": teacher}, temperature=2.0)
    assert loss.imitation({"raw": 100 * student}, {"raw": 100 * teacher}, temperature=2.0) == pytest.approx(float(plain), rel=1e-4)
    assert not loss.learns
