"""Metrics against torchmetrics, and their intervals."""

import numpy as np
import pytest
import torch
import torchmetrics.functional as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemm.contracts.card import Output
from edgemm.data import scoring
from edgemm.errors import MeasureError

DIGIT = Output("digit", "classification", tuple("abcd"))
TAGS = Output("tags", "multilabel", tuple("abcde"))
LEVEL = Output("level", "regression", unit="dB")
PICTURE = Output("picture", "embedding", pair="words")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def logits(rng, n=300, labels=4, right=0.8):
    """Logits that answer about ``right`` of the rows rightly, and the truth."""
    truth = rng.integers(0, labels, n)
    answers = rng.normal(size=(n, labels)).astype(np.float32)
    answers[np.arange(n), truth] += 6 * (rng.random(n) < right)
    return answers, truth


def test_each_task_has_its_guarded_metric():
    names = [scoring.guarded(output) for output in (DIGIT, TAGS, LEVEL, PICTURE)]
    assert names == ["accuracy", "f1", "mae", "recall_at_1"]
    assert scoring.guarded(Output("state", "tensor")) == scoring.guarded(Output("words", "embedding")) == "sqnr_db"


def test_accuracy_equals_torchmetrics_and_its_interval_holds_it(rng):
    answers, truth = logits(rng)
    score = scoring.measure(DIGIT, answers, truth)
    expected = oracle.classification.multiclass_accuracy(torch.tensor(answers), torch.tensor(truth), num_classes=4, average="micro")
    assert score.value == pytest.approx(float(expected))
    assert (score.name, score.better, score.unit, score.n) == ("accuracy", "higher", "ratio", 300)
    assert score.low < score.value < score.high


def test_the_accuracy_interval_is_wilsons():
    answers, truth = np.eye(2, dtype=np.float32)[np.array([0] * 9 + [1])], np.zeros(10, np.int64)
    score = scoring.measure(Output("y", "classification", ("a", "b")), answers, truth)
    assert (score.low, score.high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))


def test_macro_f1_equals_torchmetrics(rng):
    answers, truth = rng.normal(size=(200, 5)).astype(np.float32), (rng.random((200, 5)) < 0.3).astype(np.float32)
    truth[:, 4] = 0
    score = scoring.measure(TAGS, answers, truth)
    probabilities = torch.sigmoid(torch.tensor(answers))
    expected = oracle.classification.multilabel_f1_score(probabilities, torch.tensor(truth).int(), num_labels=5, average="macro")
    assert score.value == pytest.approx(float(expected), abs=1e-6)


def test_mae_equals_torchmetrics_in_the_outputs_unit(rng):
    answers, truth = rng.normal(size=(200, 1)).astype(np.float32), rng.normal(size=200).astype(np.float32)
    score = scoring.measure(LEVEL, answers, truth)
    assert score.value == pytest.approx(float(oracle.mean_absolute_error(torch.tensor(answers[:, 0]), torch.tensor(truth))), rel=1e-5)
    assert (score.unit, score.better) == ("dB", "lower")


def test_recall_at_1_counts_rows_whose_own_partner_is_nearest(rng):
    words = rng.normal(size=(1500, 8))
    pictures = words + rng.normal(size=words.shape)
    score = scoring.measure(PICTURE, pictures, words)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (pictures, words)]
    assert score.value == pytest.approx(((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(1500)).mean())


def test_a_collapsed_embedding_scores_chance_not_one():
    same = np.ones((50, 4), np.float32)
    assert scoring.measure(PICTURE, same, same).value == pytest.approx(1 / 50)


@pytest.mark.parametrize(
    ("output", "shape", "truth_shape"),
    [
        (Output("y", "classification", tuple("abcd"), per_step=True), (20, 7, 4), (20, 7)),
        (Output("y", "multilabel", tuple("abcd"), per_step=True), (20, 7, 4), (20, 7, 4)),
        (Output("y", "regression", per_step=True), (20, 7), (20, 7)),
    ],
)
def test_per_step_outputs_are_averaged_over_all_steps_and_counted_by_row(output, shape, truth_shape, rng):
    answers = rng.normal(size=shape).astype(np.float32)
    truth = rng.integers(0, 2, truth_shape)
    score = scoring.measure(output, answers, truth)
    flat = {
        "classification": lambda: (answers.argmax(-1) == truth).mean(),
        "regression": lambda: np.abs(answers - truth).mean(),
        "multilabel": lambda: scoring.measure(TAGS, answers.reshape(-1, 4), truth.reshape(-1, 4)).value,
    }[output.task]()
    assert score.value == pytest.approx(float(flat), rel=1e-6)
    assert score.n == 20


def test_a_tensor_is_scored_as_sqnr_against_the_reference(rng):
    reference = rng.normal(size=(100, 3)).astype(np.float32)
    other = reference + 0.1 * reference.std() * rng.normal(size=reference.shape).astype(np.float32)
    state = Output("state", "tensor")
    assert scoring.measure(state, other, reference).value == pytest.approx(20, abs=0.5)
    assert scoring.measure(state, reference, reference).value == 200


def test_the_drop_in_points_is_before_minus_after(rng):
    before, truth = logits(rng)
    after = before.copy()
    after[:30] = -before[:30]
    lost = scoring.drop(DIGIT, before, after, truth)
    expected = 100 * (scoring.measure(DIGIT, before, truth).value - scoring.measure(DIGIT, after, truth).value)
    assert lost.value == pytest.approx(expected)
    assert (lost.name, lost.unit, lost.better) == ("accuracy_drop_points", "points", "lower")
    assert lost.low <= lost.value <= lost.high


def test_models_that_never_disagree_still_may_differ_a_little(rng):
    answers, truth = logits(rng, n=1000)
    lost = scoring.drop(DIGIT, answers, answers, truth)
    assert lost.value == 0
    assert -0.3 < lost.low < 0 < lost.high < 0.3


def test_the_paired_interval_is_much_narrower_than_two_single_ones(rng):
    before, truth = logits(rng, n=1000)
    after = before + 0.05 * rng.normal(size=before.shape)
    lost = scoring.drop(DIGIT, before, after, truth)
    single = scoring.measure(DIGIT, before, truth)
    assert lost.high - lost.low < 0.3 * 100 * (single.high - single.low)


@pytest.mark.parametrize("output", [DIGIT, TAGS, LEVEL], ids=lambda output: output.task)
def test_the_paired_interval_holds_the_true_drop_in_about_95_of_100_draws(output):
    rng = np.random.default_rng(1)

    def draw(n):
        if output.task == "classification":
            before, truth = logits(rng, n=n, right=0.7)
        elif output.task == "multilabel":
            before = rng.normal(size=(n, 5))
            truth = (before + rng.normal(size=before.shape) > 0.5).astype(np.float32)
        else:
            before = rng.normal(size=n)
            truth = before + rng.normal(size=n)
        return before, before + 0.8 * rng.normal(size=before.shape), truth

    true = scoring.drop(output, *draw(400_000)).value
    held = [lost.low <= true <= lost.high for lost in (scoring.drop(output, *draw(300)) for _ in range(400))]
    assert 0.91 < np.mean(held) < 0.99


def test_a_drop_in_regression_is_in_its_unit_and_positive_when_worse(rng):
    truth = rng.normal(size=200)
    lost = scoring.drop(LEVEL, truth + 0.5, truth + 0.7, truth)
    assert lost.value == pytest.approx(0.2)
    assert lost.unit == "dB"
    assert lost.per_point == pytest.approx(truth.std() / 100)


def test_a_drop_in_recall_takes_both_towers_as_they_are_after(rng):
    words = rng.normal(size=(200, 8))
    pictures = words + 0.8 * rng.normal(size=words.shape)
    turned = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert scoring.drop(PICTURE, pictures, pictures @ turned, words, pair_after=words @ turned).value == pytest.approx(0, abs=1e-9)
    assert scoring.drop(PICTURE, pictures, pictures @ turned, words).value > 30


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_every_interval_is_finite_in_range_and_holds_its_value(n, seed):
    rng = np.random.default_rng(seed)
    before, truth = logits(rng, n=n, right=rng.random())
    after, _ = logits(rng, n=n, right=rng.random())
    score, lost = scoring.measure(DIGIT, before, truth), scoring.drop(DIGIT, before, after, truth)
    assert 0 <= score.low <= score.value <= score.high <= 1
    assert -100 <= lost.low <= lost.value + 1e-9
    assert lost.value - 1e-9 <= lost.high <= 100


def test_one_row_has_no_interval_for_means(rng):
    score = scoring.measure(LEVEL, np.array([1.0]), np.array([3.0]))
    assert (score.value, score.low, score.high, score.n) == (2.0, None, None, 1)


def test_the_confusion_matrix_has_a_row_for_each_true_label():
    answers = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    matrix = scoring.confusion(answers, np.array([0, 0, 1, 2]), ("a", "b", "c"))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_no_rows_are_an_error():
    with pytest.raises(MeasureError, match="output 'digit' cannot be scored: 0 predictions for 0 rows"):
        scoring.measure(DIGIT, np.zeros((0, 4)), np.zeros(0, np.int64))


def test_shapes_that_do_not_belong_together_are_an_error():
    with pytest.raises(MeasureError, match=r"predictions \(5, 2, 4\) and truth \(5,\) do not belong together"):
        scoring.measure(DIGIT, np.zeros((5, 2, 4)), np.zeros(5, np.int64))


def test_answers_that_are_no_numbers_are_an_error_not_the_first_label(rng):
    answers, truth = logits(rng, n=10)
    answers[3, 1] = np.nan
    with pytest.raises(MeasureError, match="output 'digit' is not finite in 1 of 10 rows"):
        scoring.measure(DIGIT, answers, truth)


def test_a_tensor_has_no_accuracy_to_lose():
    with pytest.raises(MeasureError, match="output 'state' has no accuracy to lose"):
        scoring.drop(Output("state", "tensor"), np.zeros(3), np.zeros(3), np.zeros(3))
