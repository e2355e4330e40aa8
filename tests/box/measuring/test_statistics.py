"""Percentiles, ratios and their intervals."""

import numpy as np
import pytest

from edgemm.box.measuring.statistics import _t, by_launch, percentiles, ratio, spread_of

rng = np.random.default_rng(0)


def rounds(p50: float, count: int = 12, calls: int = 40, *, between: float = 0.03, seed: int = 0) -> list[list[float]]:
    """Calls around ``p50``; each round has a speed of its own, as on a real box."""
    random = np.random.default_rng(seed)
    speeds = random.lognormal(0, between, count)
    return [list(p50 * speed * random.lognormal(0, 0.02, calls)) for speed in speeds]


def test_percentiles_are_those_of_all_calls():
    data = rounds(2.0)
    found = percentiles(data, [50, 90, 95, 99])
    calls = sorted(np.concatenate(data))
    assert [interval.value for interval in found] == [calls[int(len(calls) * share) - 1] for share in (0.5, 0.9, 0.95)] + [calls[475]]
    assert all(interval.low < interval.value < interval.high for interval in found)


def test_the_interval_holds_its_value_also_where_a_few_calls_are_far_off():
    for seed in range(40):
        random = np.random.default_rng(seed)
        data = [np.where(random.random(20) < 0.06, 20.0, random.lognormal(0, 0.1, 20)) for _ in range(6)]
        assert all(found.low <= found.value <= found.high for found in percentiles(data, [50, 95, 99]))


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


def launched(seed: int, slower: float = 1.0, launches: int = 8) -> tuple[list[list[float]], list[list[float]], list[int]]:
    """Rounds of two processes of one engine, two a launch, as a real box shows them.

    Processes differ by 2%; the box's speed drifts for both alike (each round keeps 0.7 of the last one's); rounds and calls have noise of
    their own, and a call in fifty is interrupted.
    """
    random = np.random.default_rng(seed)
    sides: list[list[list[float]]] = [[], []]
    drift, of = 0.0, []
    for launch in range(launches):
        speeds = random.normal(0, 0.02, 2)
        for _ in range(2):
            drift = 0.7 * drift + random.normal(0, 0.05)
            of.append(launch)
            for side, factor in enumerate((slower, 1.0)):
                calls = factor * np.exp(drift + speeds[side] + random.normal(0, 0.02) + random.normal(0, 0.03, 40))
                sides[side].append(list(np.where(random.random(40) < 0.02, 5 * calls, calls)))
    return sides[0], sides[1], of


def verdicts(slower: float) -> list[str]:
    found = [launched(seed, slower) for seed in range(400)]
    return [ratio(ours, theirs, launches=of).verdict for ours, theirs, of in found]


def test_an_engine_against_itself_claims_a_difference_in_at_most_5_of_100_runs_whatever_its_processes_differ_by():
    assert sum(verdict != "no difference shown" for verdict in verdicts(1.0)) <= 0.05 * 400


def test_a_slowdown_of_10_per_cent_is_found_in_at_least_95_of_100_runs():
    assert sum(verdict == "slower" for verdict in verdicts(1.1)) >= 0.95 * 400


def test_rounds_alone_would_claim_differences_between_processes_of_one_engine():
    found = [launched(seed) for seed in range(100)]
    assert sum(ratio(ours[:2] * 8, theirs[:2] * 8).verdict != "no difference shown" for ours, theirs, _ in found) > 20


def test_with_one_launch_the_difference_between_processes_is_assumed():
    first, second = rounds(1.0), rounds(1.04, seed=1, between=0.001)
    alone, assumed = ratio(second, first), ratio(second, first, launches=[0] * 12)
    assert assumed.value == alone.value
    assert assumed.low < alone.low < alone.high < assumed.high
    assert ratio([[2.0] * 5] * 5, [[1.0] * 5] * 5, launches=[0] * 5).verdict == "slower"


def test_a_percentile_is_resampled_by_launches_where_there_are_enough():
    data = [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]
    assert by_launch(data, [0, 0, 1, 1, 2, 2]) == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert by_launch(data, [0] * 6) == data


def test_a_mean_of_few_values_has_the_interval_of_students_t():
    found = spread_of([1.0, 2.0, 3.0])
    assert (found.value, found.low) == (2.0, 0.0)
    assert found.high == pytest.approx(2 + 4.303 / 3**0.5, rel=0.04)
    assert spread_of([1.0]).low is None


@pytest.mark.parametrize(
    ("normal", "freedom", "exact"), [(1.959964, 2, 4.303), (1.959964, 7, 2.365), (2.326348, 7, 2.998), (2.326348, 4, 3.747)]
)
def test_quantiles_of_students_t(normal, freedom, exact):
    assert _t(normal, freedom) == pytest.approx(exact, rel=0.04)
