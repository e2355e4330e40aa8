"""Verification: same or different, by the cosine of two vectors."""

import numpy as np
import pytest

from edgemm.data.verification import of_pairs, recall, verification


def people(rng, spread, count=12, each=6, size=16):
    centres = rng.normal(size=(count, size))
    vectors = np.repeat(centres, each, axis=0) + spread * rng.normal(size=(count * each, size))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(count), each).astype(str)


def test_people_who_are_told_apart_have_no_error():
    vectors, names = people(np.random.default_rng(0), 0.01)
    found = verification(vectors, names)
    assert found.equal_error_rate == 0.0
    assert found.accepted_wrongly == 0.0
    assert (found.same, found.different) == (12 * 15, 72 * 71 // 2 - 180)
    assert recall(vectors, names, vectors, names, 1, own=True) == 1.0


def test_the_equal_error_rate_is_where_both_errors_are_equal():
    rng = np.random.default_rng(0)
    found = of_pairs(rng.normal(1, 1, 100_000), rng.normal(-1, 1, 100_000))
    assert found.equal_error_rate == pytest.approx(0.1587, abs=3e-3)  # the tail of a normal distribution beyond one deviation
    assert found.threshold == pytest.approx(0.0, abs=0.03)
    assert found.strict == pytest.approx(1 - 2.326, abs=0.05)


def test_without_two_of_a_name_there_is_nothing_to_verify():
    vectors, _ = people(np.random.default_rng(0), 0.01, each=1)
    assert verification(vectors, np.arange(12).astype(str)) is None
    assert np.isnan(recall(vectors, np.arange(12).astype(str), vectors, np.arange(12).astype(str), 1, own=True))
