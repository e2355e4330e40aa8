"""Bounds on the next rows: against sums written out, and the promise itself, over every outcome that can be."""

from itertools import product
from math import comb

import numpy as np
import pytest

from edgemm.data import exact, next_rows


def multinomial(rows, losses, gains, loss, gain):
    stay = max(0.0, 1 - loss - gain)
    return comb(rows, losses) * comb(rows - losses, gains) * loss**losses * gain**gains * stay ** (rows - losses - gains)


def test_the_chance_is_that_of_dealing_the_bag_so():
    # 2 losses seen among 10, and 3 of the next 8 would be too many: of 5 losses in the bag at most 2 fell among the 10
    ways = sum(comb(10, seen) * comb(8, 5 - seen) for seen in range(3)) / comb(18, 5)
    assert next_rows.chance_of(2, 10, 8, 2 / 8) == pytest.approx(ways, rel=1e-9)
    assert next_rows.chance_of(0, 10, 8, 1.0) == 0.0
    assert next_rows.chance_of(0, 1334, 1334, 0.003) == pytest.approx(0.5**5, rel=0.05)


def test_of_endlessly_many_next_rows_it_is_the_bound_on_all():
    for losses in (0, 2, 5):
        assert next_rows.chance_of(losses, 1000, 100_000, 0.01) == pytest.approx(exact.chance_of(losses, 1000, 0.01), rel=0.1)
    assert next_rows.chance_of(2, 1000, 500, 0.01) > next_rows.chance_of(2, 1000, 5000, 0.01)


def test_whatever_the_bag_too_many_come_after_few_losses_in_no_more_than_5_percent_of_all_deals():
    rows, coming, limit = 30, 20, 0.15
    most = max(losses for losses in range(rows) if next_rows.chance_of(losses, rows, coming, limit) <= 0.05)
    allowed = next_rows.allowed(coming, limit)
    assert (most, allowed) == (0, 3)
    for bag in range(rows + coming):
        deals = (seen for seen in range(min(bag, most) + 1) if allowed < bag - seen <= coming)
        assert sum(comb(rows, seen) * comb(coming, bag - seen) for seen in deals) / comb(rows + coming, bag) <= 0.05


@pytest.mark.parametrize(("limit", "weight"), [(0.15, 1), (0.15, 3)])
def test_a_sequence_of_thresholds_loses_too_much_of_the_next_rows_in_no_more_than_5_percent(limit, weight):
    """Rates of losses grow along the sequence, those of gains by ``weight`` of them; every outcome of the first that is wrong is summed."""
    rows, coming = 40, 24
    taken = [
        (losses, gains)
        for losses, gains in product(range(rows + 1), repeat=2)
        if losses + gains <= rows and next_rows.chance_of_paired(losses, gains, rows, coming, limit) <= 0.05
    ]
    assert len(taken) > 20
    most, chance, before = next_rows.allowed(coming, limit), 0.0, 0.0
    for loss in np.linspace(0.01, 0.9 / (1 + weight), 40):
        gain = weight * loss / 3
        exceeds = sum(
            multinomial(coming, losses, gains, loss, gain)
            for losses, gains in product(range(coming + 1), repeat=2)
            if losses + gains <= coming and losses - gains > most
        )
        is_taken = sum(multinomial(rows, losses, gains, loss, gain) for losses, gains in taken)
        chance += max(0.0, exceeds - before) * is_taken
        before = max(before, exceeds)
    assert chance <= 0.05


def test_gains_make_up_for_losses_and_cost_nothing_where_there_are_none():
    plain, paired = (next_rows.chance_of(5, 1250, 1250, 0.01), next_rows.chance_of_paired(5, 0, 1250, 1250, 0.01))
    assert plain == pytest.approx(paired, abs=2e-3)
    assert next_rows.chance_of_paired(7, 6, 1250, 1250, 0.01) < 0.05 < next_rows.chance_of(7, 1250, 1250, 0.01)
    worse = [next_rows.chance_of_paired(losses, 2, 1250, 1250, 0.01) for losses in range(9)]
    assert worse == sorted(worse)
    assert next_rows.chance_of_paired(400, 0, 1250, 1250, 0.01) == 1.0


def test_whether_counting_gains_pays_is_known_before_any_row_was_seen():
    assert next_rows.gains_help(1250, 1250, 0.01)
    assert not next_rows.gains_help(1334, 1334, 0.003)  # one loss less would be shown than without


def test_so_many_rows_without_a_loss_show_it_and_one_less_does_not():
    for coming, share in ((1250, 0.003), (None, 0.01), (10_000, 0.003)):
        needed = next_rows.rows_needed(coming, share)
        chances = [next_rows.chance_of(0, rows, coming or rows, share) for rows in (needed, needed - 1)]
        assert chances[0] <= 0.05 < chances[1]
