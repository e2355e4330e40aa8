"""Shapley shares: they add up, an input that says nothing gets nothing, two that say the same get the same."""

from itertools import chain, combinations

import numpy as np
import pytest

from edgemm.data.shares import of_decision, shapley

INPUTS = ("eye", "ear", "nose")
SUBSETS = list(chain.from_iterable(combinations(INPUTS, size) for size in range(4)))


def test_shares_add_up_and_those_of_a_sum_are_its_parts():
    worth = {"eye": 5.0, "ear": -2.0, "nose": 0.0}
    values = {subset: np.array([sum(worth[name] for name in subset)]) for subset in SUBSETS}
    np.testing.assert_allclose(shapley(values, INPUTS), [[5, -2, 0]], atol=1e-12)


def test_what_only_two_know_together_is_shared_by_both():
    values = {subset: np.array([float({"eye", "ear"} <= set(subset))]) for subset in SUBSETS}
    np.testing.assert_allclose(shapley(values, INPUTS), [[0.5, 0.5, 0]], atol=1e-12)


def test_shares_of_a_decision_are_in_its_chance_beside_what_is_said_on_average():
    rng = np.random.default_rng(0)
    chances = {subset: rng.dirichlet(np.ones(4), 50) for subset in SUBSETS if subset}
    shares, whole = of_decision(chances, INPUTS), chances[INPUTS]
    decided = whole.argmax(1)
    np.testing.assert_allclose(shares.sum(1), whole.max(1) - whole.mean(0)[decided])


def test_a_subset_that_is_not_there_is_an_error():
    with pytest.raises(KeyError):
        shapley({("eye",): np.zeros(1), (): np.zeros(1)}, ("eye", "ear"))
