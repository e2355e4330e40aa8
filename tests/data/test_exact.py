"""Exact bounds: against sums written out, and the promise itself, over every outcome that can be."""

from itertools import product
from math import comb

import numpy as np
import pytest

from edgemm.data import exact


def test_a_binomials_tail_is_the_sum_of_its_terms():
    for count, rows, rate in ((0, 10, 0.3), (4, 10, 0.3), (17, 40, 0.5), (39, 40, 0.99)):
        terms = sum(comb(rows, k) * rate**k * (1 - rate) ** (rows - k) for k in range(count + 1))
        assert exact.at_most(count, rows, rate) == pytest.approx(terms, rel=1e-9)
    assert (exact.at_most(3, 3, 0.2), exact.at_most(-1, 3, 0.2), exact.at_most(0, 3, 0.0), exact.at_most(1, 3, 1.0)) == (1, 0, 1, 0)


def test_bounds_of_a_share_are_clopper_and_pearsons():
    assert exact.upper(0, 998) == pytest.approx(1 - 0.05 ** (1 / 998), rel=1e-6)
    assert (exact.lower(5, 100, 0.025), exact.upper(5, 100, 0.025)) == pytest.approx((0.016432, 0.112835), abs=1e-6)
    assert (exact.upper(7, 7), exact.lower(0, 7)) == (1.0, 0.0)


def test_so_many_rows_without_a_loss_show_a_limit_and_one_less_does_not():
    needed = exact.rows_needed(0.003)
    assert exact.chance_of_paired(0, 0, needed, 0.003) <= 0.05 < exact.chance_of_paired(0, 0, needed - 1, 0.003)
    assert 990 < needed < 1010


def test_gains_make_up_for_losses_and_losses_do_not_vanish_in_rows():
    assert exact.chance_of_paired(5, 5, 3000, 0.003) < 0.05 < exact.chance_of(5, 3000, 0.003)
    assert exact.chance_of_paired(9, 0, 3000, 0.003) > 0.3
    worse = [exact.chance_of_paired(losses, 2, 2000, 0.003) for losses in range(8)]
    assert worse == sorted(worse)


@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_a_claim_that_is_true_is_rejected_in_no_more_than_5_percent_of_all_samples_whatever_the_gains(limit):
    rows = 24
    rejected = [
        (losses, gains)
        for losses, gains in product(range(rows + 1), repeat=2)
        if losses + gains <= rows and exact.chance_of_paired(losses, gains, rows, limit) <= 0.05
    ]
    assert rejected
    for gain in np.linspace(0, (1 - limit) / 2, 40):
        loss = limit + gain
        chance = sum(
            comb(rows, b) * comb(rows - b, c) * loss**b * gain**c * max(0.0, 1 - loss - gain) ** (rows - b - c) for b, c in rejected
        )
        assert chance <= 0.05 + 1e-9


def test_the_upper_bound_is_where_the_p_value_turns():
    bound = exact.upper_paired(3, 1, 2000)
    assert exact.chance_of_paired(3, 1, 2000, bound * 1.01) < 0.05 < exact.chance_of_paired(3, 1, 2000, bound * 0.99)
    assert exact.upper_paired(3, 1, 2000, counts_gains=False) == pytest.approx(exact.upper(3, 2000), abs=1e-5)
