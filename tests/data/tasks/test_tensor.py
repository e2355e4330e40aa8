"""Values without a meaning: how near they are to a reference."""

import numpy as np
import pytest

from edgemm.contracts.card import Output
from edgemm.contracts.task import of
from edgemm.errors import MeasureError

STATE = Output("state", "tensor")


def test_it_is_scored_as_signal_to_error_against_a_reference():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(100, 3)).astype(np.float32)
    other = reference + 0.1 * reference.std() * rng.normal(size=reference.shape).astype(np.float32)
    score = of(STATE).measure({"state": other}, reference).score()
    assert score.value == pytest.approx(20, abs=0.5)
    assert (score.name, score.unit, score.low) == ("sqnr_db", "dB", None)
    assert of(STATE).measure({"state": reference}, reference).score().value == 200


def test_without_a_reference_there_is_nothing_to_measure():
    with pytest.raises(MeasureError, match=r"predictions \(3,\) do not belong together"):
        of(STATE).measure({"state": np.zeros(3)}, None)


def test_nobody_knows_what_it_means():
    task = of(STATE)
    assert task.is_opaque
    assert not task.is_scored
    assert task.read({"state": np.zeros((1, 3))}) is None
