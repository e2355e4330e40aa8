"""Percentiles, ratios and their intervals."""

import numpy as np
import pytest

from edgemm.probes._statistics import percentiles, ratio

rng = np.random.default_rng(0)


def rounds(p50: float, count: int = 12, calls: int = 40, *, between: float = 0.03, seed: int = 0) -> list[list[float]]:
    """Calls around ``p50``; each round has a speed of its own, as on a real box."""
    random = np.random.default_rng(seed)
    speeds = random.lognormal(0, between, count)
    return [list(p50 * speed * random.lognormal(0, 0.02, calls)) for speed in speeds]


def test_percentiles_are_those_of_all_calls():
    data = rounds(2.0)
    found = percentiles(data, [50, 90, 95, 99])
    assert [interval.value for interval in found] == pytest.approx(np.percentile(np.concatenate(data), [50, 90, 95, 99]))
    assert all(interval.low < interval.value < interval.high for interval in found)


def test_rounds_of_different_length_are_pooled():
    (found,) = percentiles([[1.0, 1.0, 1.0], [2.0], [1.0, 2.0]], [50])
    assert found.value == 1.0


def test_one_round_has_no_interval():
    (found,) = percentiles([[1.0, 2.0, 3.0]], [50])
    assert (found.value, found.low, found.high) == (2.0, None, None)
    assert ratio([[1.0]], [[2.0]]).verdict == "no difference shown"


def test_the_same_rounds_and_seed_give_the_same_interval():
    assert percentiles(rounds(1.0), [95]) == percentiles(rounds(1.0), [95])


def test_a_candidate_that_is_faster_in_every_round_is_called_faster_and_the_other_slower():
    slow = rounds(2.0, between=0.5)
    fast = [[sample * 0.9 for sample in round_] for round_ in slow]
    assert ratio(fast, slow).verdict == "faster"
    assert ratio(slow, fast).verdict == "slower"
    assert ratio(fast, slow).value == pytest.approx(0.9)


def test_pairing_sees_through_a_box_whose_speed_drifts():
    drift = np.linspace(1, 3, 12)
    noise = np.random.default_rng(1).lognormal(0, 0.01, (2, 12, 40))
    first, second = (list(map(list, drift[:, None] * noise[side] * speed)) for side, speed in enumerate((1.0, 0.9)))
    assert ratio(second, first).verdict == "faster"


@pytest.mark.parametrize("count", [5, 12])
def test_two_equal_candidates_are_rarely_told_apart(count):
    verdicts = [ratio(rounds(1.0, count, 20, seed=2 * seed), rounds(1.0, count, 20, seed=2 * seed + 1)).verdict for seed in range(60)]
    assert sum(verdict != "no difference shown" for verdict in verdicts) <= 8  # 3 expected at 95%


def test_the_interval_of_a_p50_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(60):
        (found,) = percentiles(rounds(1.0, 12, 20, seed=seed), [50])
        held += found.low <= 1.0 <= found.high
    assert held >= 52  # 57 expected


def test_long_runs_stay_within_bounded_memory():
    data = [list(rng.random(1000)) for _ in range(20)]
    (found,) = percentiles(data, [50])
    assert found.value == pytest.approx(0.5, abs=0.02)
