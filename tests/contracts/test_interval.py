"""How many rows it takes to know a number better."""

import pytest

from edgemm.contracts.interval import rows_to_show_below


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.4), (0.2, 1.01), (-3, 3)])
def test_what_reaches_across_a_limit_takes_more_rows_than_it_has(low, high):
    needed = rows_to_show_below(400, low, high, 1.0)
    assert needed > 400
    middle, half = (low + high) / 2, (high - low) / 2
    assert middle + half * (400 / needed) ** 0.5 == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.3), (0.2, 0.8), (None, 3)])
def test_no_rows_help_where_the_middle_is_beyond_or_the_limit_is_kept(low, high):
    assert rows_to_show_below(400, low, high, 1.0) is None
