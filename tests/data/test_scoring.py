"""Intervals of a metric and of what was lost, paired by row; and metrics of all rows together."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemm.contracts.card import Output
from edgemm.contracts.report_parts import Confusion
from edgemm.contracts.task import of
from edgemm.data import scoring
from edgemm.data.scoring import Metric, Resampled, RowScores
from edgemm.errors import MeasureError

DIGIT = Output("digit", "classification", {"labels": tuple("abcd")})
TAGS = Output("tags", "multilabel", {"labels": tuple("abcde")})
LEVEL = Output("level", "regression", {"unit": "dB"})
METRIC = Metric("goals", "higher", "goals", in_points=False)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def measure(output, predictions, truth):
    return of(output).measure({output.name: predictions}, truth)


def drop(output, before, after, truth):
    return measure(output, before, truth).drop(measure(output, after, truth))


def logits(rng, n=300, labels=4, right=0.8):
    """Logits that answer about ``right`` of the rows rightly, and the truth."""
    truth = rng.integers(0, labels, n)
    answers = rng.normal(size=(n, labels)).astype(np.float32)
    answers[np.arange(n), truth] += 6 * (rng.random(n) < right)
    return answers, truth


def test_the_interval_of_a_share_is_wilsons():
    answers, truth = np.eye(2, dtype=np.float32)[np.array([0] * 9 + [1])], np.zeros(10, np.int64)
    score = measure(Output("y", "classification", {"labels": ("a", "b")}), answers, truth).score()
    assert (score.low, score.high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


def test_the_drop_in_points_is_before_minus_after(rng):
    before, truth = logits(rng)
    after = before.copy()
    after[:30] = -before[:30]
    lost = drop(DIGIT, before, after, truth)
    expected = 100 * (measure(DIGIT, before, truth).value() - measure(DIGIT, after, truth).value())
    assert lost.value == pytest.approx(expected)
    assert (lost.name, lost.unit, lost.better, lost.per_point) == ("accuracy_drop_points", "points", "lower", 1.0)
    assert lost.low <= lost.value <= lost.high


def test_models_that_never_disagree_still_may_differ_a_little(rng):
    answers, truth = logits(rng, n=1000)
    lost = drop(DIGIT, answers, answers, truth)
    assert lost.value == 0
    assert -0.3 < lost.low < 0 < lost.high < 0.3


def test_the_paired_interval_is_much_narrower_than_two_single_ones(rng):
    before, truth = logits(rng, n=1000)
    after = before + 0.05 * rng.normal(size=before.shape)
    lost, single = drop(DIGIT, before, after, truth), measure(DIGIT, before, truth).score()
    assert lost.high - lost.low < 0.3 * 100 * (single.high - single.low)


@pytest.mark.parametrize("output", [DIGIT, TAGS, LEVEL], ids=lambda output: output.task)
def test_the_paired_interval_holds_the_true_drop_in_about_95_of_100_draws(output):
    rng = np.random.default_rng(1)

    def draw(n):
        if output is DIGIT:
            before, truth = logits(rng, n=n, right=0.7)
        elif output is TAGS:
            before = rng.normal(size=(n, 5))
            truth = (before + rng.normal(size=before.shape) > 0.5).astype(np.float32)
        else:
            before = rng.normal(size=n)
            truth = before + rng.normal(size=n)
        return before, before + 0.8 * rng.normal(size=before.shape), truth

    true = drop(output, *draw(400_000)).value
    held = [lost.low <= true <= lost.high for lost in (drop(output, *draw(300)) for _ in range(400))]
    assert 0.91 < np.mean(held) < 0.99


def test_a_drop_in_a_unit_of_its_own_is_positive_when_worse_and_knows_the_spread_of_the_truth(rng):
    truth = rng.normal(size=200)
    lost = drop(LEVEL, truth + 0.5, truth + 0.7, truth)
    assert lost.value == pytest.approx(0.2)
    assert lost.unit == "dB"
    assert lost.per_point == pytest.approx(truth.std() / 100)


def test_a_unit_called_ratio_makes_no_share_of_a_measurement():
    wear = Output("wear", "regression", {"unit": "ratio"})
    lost = drop(wear, np.full(4, 3.0), np.full(4, 5.0), np.zeros(4))
    assert (lost.value, lost.unit) == (2.0, "ratio")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_every_interval_is_finite_in_range_and_holds_its_value(n, seed):
    rng = np.random.default_rng(seed)
    before, truth = logits(rng, n=n, right=rng.random())
    after, _ = logits(rng, n=n, right=rng.random())
    score, lost = measure(DIGIT, before, truth).score(), drop(DIGIT, before, after, truth)
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert -100 <= lost.low <= lost.value + 1e-9
    assert lost.value - 1e-9 <= lost.high <= 100


def test_one_row_has_no_interval_for_means():
    score = measure(LEVEL, np.array([1.0]), np.array([3.0])).score()
    assert (score.value, score.low, score.high, score.n) == (2.0, None, None, 1)


def test_a_gain_is_paired_and_a_smaller_error_counts_as_one():
    truth = np.arange(40) % 2
    event = Output("event", "classification")
    right, wrong = (measure(event, np.eye(2)[chosen], truth) for chosen in (truth, (np.arange(40) % 4 == 0).astype(int)))
    gained = right.gain(1.0, [(-1.0, wrong)])
    assert gained.value == pytest.approx(75.0)
    assert gained.low < 75 < gained.high
    assert gained.unit == "points"
    still = right.gain(1.0, [(-1.0, right)])
    assert still.value == 0
    assert -10 < still.low < 0 < still.high < 10, "forty rows that agree do not prove that all do"
    near, far = (measure(LEVEL, np.zeros(8), np.full(8, error)) for error in (1.0, 3.0))
    gained = near.gain(1.0, [(-1.0, far)])
    assert (gained.value, gained.unit) == (2.0, "dB")


def test_goodness_rises_with_the_share_and_falls_with_the_error_in_the_truths_spread(rng):
    truth = rng.normal(scale=10.0, size=400)
    assert measure(LEVEL, truth + truth.std() / 2, truth).goodness() == pytest.approx(0.5, abs=0.01)
    answers, truth = logits(rng)
    assert measure(DIGIT, answers, truth).goodness() == measure(DIGIT, answers, truth).value()


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Resampled):
    """A mean over rows, so that resampling can be held against the formulas."""

    numbers: np.ndarray

    def count(self):
        return len(self.numbers)

    def values(self, weights):
        return weights @ self.numbers / weights.sum(axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared(Resampled):
    """Hits over positives, as mean average precision and intersection over union are: a ratio of sums, nothing where nothing is there."""

    hits: np.ndarray
    positives: np.ndarray

    def count(self):
        return len(self.hits)

    def values(self, weights):
        with np.errstate(invalid="ignore"):
            return (weights @ self.hits) / (weights @ self.positives)


def test_resampled_rows_give_the_interval_that_the_formula_gives(rng):
    numbers, others = rng.normal(5.0, size=400), rng.normal(5.5, size=400)
    drawn, by_formula = (
        [kind(metric=METRIC, **{field: rows}) for rows in (numbers, others)] for kind, field in ((Mean, "numbers"), (RowScores, "rows"))
    )
    for ours, theirs in ((drawn[0].score(), by_formula[0].score()), (drawn[0].drop(drawn[1]), by_formula[0].drop(by_formula[1]))):
        assert ours.value == pytest.approx(theirs.value)
        assert ours.low == pytest.approx(theirs.low, abs=0.02)
        assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_resampling_pairs_its_rows_and_is_the_same_every_time(rng):
    numbers = rng.normal(scale=100.0, size=300)
    before, after = Mean(metric=METRIC, numbers=numbers), Mean(metric=METRIC, numbers=numbers - 1.0)
    lost = before.drop(after)
    assert (lost.value, lost.low, lost.high) == (pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0)), "every row lost one"
    again = Mean(metric=METRIC, numbers=numbers).score()
    assert again == before.score()
    assert again.high - again.low > 10


def test_the_metric_of_a_draw_is_that_of_rows_that_stand_there_so_often(rng):
    hits, positives = rng.integers(0, 3, 20).astype(float), rng.integers(3, 6, 20).astype(float)
    rows = rng.integers(0, 20, 20)
    weights = np.bincount(rows, minlength=20)[None].astype(float)
    whole = Shared(metric=Metric("share"), hits=hits, positives=positives)
    assert whole.values(weights)[0] == pytest.approx(hits[rows].sum() / positives[rows].sum())


def test_draws_without_a_value_are_left_out_and_one_row_has_no_interval():
    rare = Shared(metric=Metric("share"), hits=np.array([1.0, 0, 0]), positives=np.array([2.0, 0, 0]))
    score = rare.score()
    assert (score.value, score.low, score.high) == (0.5, 0.5, 0.5)
    alone = Shared(metric=Metric("share"), hits=np.ones(1), positives=np.ones(1)).score()
    assert (alone.low, alone.high) == (None, None)


def test_the_paired_interval_of_a_ratio_of_sums_holds_the_true_drop_in_about_95_of_100_draws():
    rng = np.random.default_rng(2)

    def draw(n):
        positives = rng.integers(1, 12, n)
        easy = rng.beta(4, 2, n)
        before = rng.binomial(positives, easy)
        after = rng.binomial(before, 0.9)
        first, second = (
            Shared(metric=Metric("share"), hits=hits.astype(float), positives=positives.astype(float)) for hits in (before, after)
        )
        return first.drop(second)

    true = 100 * (4 / 6) * 0.1
    held = [lost.low <= true <= lost.high for lost in (draw(120) for _ in range(200))]
    assert 0.9 < np.mean(held) <= 0.99


def test_the_area_under_the_curve_counts_ties_half(rng):
    scores, positive = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert scoring.area_under_roc(scores, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(scoring.area_under_roc(scores, np.ones(60, bool)))


def test_confusions_are_those_of_labelled_outputs_that_were_answered():
    outputs = {"digit": Output("digit", "classification", {"labels": tuple("ab")}), "level": LEVEL}
    truth = {"digit": np.array([0, 0, 1]), "level": np.zeros(3)}
    after = {"digit": np.eye(2)[[0, 1, 1]], "level": np.zeros(3)}
    found = scoring.confusions(outputs, truth, {}, after)
    assert found == {"digit": Confusion(["a", "b"], [[1, 1], [0, 1]])}
    assert scoring.confusions(outputs, truth, after, after)["digit"].before == [[1, 1], [0, 1]]
    assert scoring.confusions(outputs, {}, after, after) == {}


def test_what_has_no_truth_has_no_accuracy_to_lose():
    state = measure(Output("state", "tensor"), np.ones((3, 1)), np.zeros((3, 1)))
    with pytest.raises(MeasureError, match="output 'state' has no accuracy to lose"):
        state.drop(state)
    with pytest.raises(MeasureError, match="'state' has no accuracy to compare"):
        state.gain(1.0)
