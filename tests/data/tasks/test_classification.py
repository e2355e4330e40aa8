"""One label out of several: accuracy and its kin against torchmetrics, cells, readings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics import classification as oracle

from edgemm.contracts.card import Output
from edgemm.contracts.task import Cells, of
from edgemm.errors import DataError, MeasureError

BESIDE = Cells(Path())
DIGIT = Output("digit", "classification", {"labels": tuple("abcd")})


@pytest.fixture
def answered():
    """Logits that answer most rows rightly, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    answers = rng.normal(size=(300, 4)).astype(np.float32)
    answers[np.arange(300), truth] += 6 * (rng.random(300) < 0.8)
    return {"digit": answers}, truth


def test_accuracy_equals_torchmetrics_and_its_interval_holds_it(answered):
    answers, truth = answered
    score = of(DIGIT).measure(answers, truth).score()
    expected = oracle.MulticlassAccuracy(4, average="micro")(torch.tensor(answers["digit"]), torch.tensor(truth))
    assert score.value == pytest.approx(float(expected))
    assert (score.name, score.better, score.unit, score.n) == ("accuracy", "higher", "ratio", 300)
    assert score.low < score.value < score.high


def test_what_train_tells_beside_equals_torchmetrics(answered):
    answers, truth = answered
    found = of(DIGIT).further(answers, truth)
    metrics = {
        "precision": oracle.MulticlassPrecision(4),
        "recall": oracle.MulticlassRecall(4),
        "f1": oracle.MulticlassF1Score(4),
        "auroc": oracle.MulticlassAUROC(4),
        "average_precision": oracle.MulticlassAveragePrecision(4),
        "ece": oracle.MulticlassCalibrationError(4, n_bins=15),
    }
    assert found.keys() == {*metrics, "sensitivity_at_specificity_0.95"}
    for name, metric in metrics.items():
        assert found[name] == pytest.approx(float(metric(torch.tensor(answers["digit"]), torch.tensor(truth))), abs=1e-6)


def test_a_label_that_occurs_nowhere_weighs_nothing():
    answers, truth = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 1]], np.array([0, 1, 0, 1, 0])
    found = of(Output("y", "classification", {"labels": tuple("abc")})).further({"y": answers}, truth)
    expected = oracle.MulticlassF1Score(3)(torch.tensor(answers), torch.tensor(truth))
    assert found["f1"] == pytest.approx(float(expected))
    perfect = of(Output("y", "classification", {"labels": tuple("abc")})).further({"y": answers[:4]}, truth[:4])
    assert perfect["auroc"] == pytest.approx(1.0)


def test_steps_are_averaged_over_and_counted_by_row():
    rng = np.random.default_rng(0)
    answers, truth = rng.normal(size=(20, 7, 4)).astype(np.float32), rng.integers(0, 2, (20, 7))
    score = of(Output("y", "classification", {"labels": tuple("abcd"), "per_step": True})).measure({"y": answers}, truth).score()
    assert score.value == pytest.approx(float((answers.argmax(-1) == truth).mean()), rel=1e-6)
    assert score.n == 20


def test_the_confusion_matrix_has_a_row_for_each_true_label():
    answers = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    matrix = of(Output("y", "classification", {"labels": tuple("abc")})).confusion({"y": answers}, np.array([0, 0, 1, 2]))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_no_rows_are_an_error():
    with pytest.raises(MeasureError, match="output 'digit' cannot be scored: 0 predictions for 0 rows"):
        of(DIGIT).measure({"digit": np.zeros((0, 4))}, np.zeros(0, np.int64))


def test_shapes_that_do_not_belong_together_are_an_error():
    with pytest.raises(
        MeasureError, match=r"predictions \(5, 2, 4\) and truth \(5,\) do not belong together(.|\n)*task is 'classification'"
    ):
        of(DIGIT).measure({"digit": np.zeros((5, 2, 4))}, np.zeros(5, np.int64))


def test_answers_that_are_no_numbers_are_an_error_not_the_first_label(answered):
    answers, truth = answered
    answers["digit"][3, 1] = np.nan
    with pytest.raises(MeasureError, match="output 'digit' is not finite in 1 of 300 rows"):
        of(DIGIT).measure(answers, truth)


def test_a_reading_is_the_softmax_of_the_last_step():
    steps = Output("y", "classification", {"labels": ("a", "b"), "per_step": True})
    seen = of(steps).read({"y": np.log(np.array([[[9.0, 1.0], [1.0, 3.0]]]))})
    assert seen.scores == {"a": pytest.approx(0.25), "b": pytest.approx(0.75)}
    assert of(Output("y", "classification")).read({"y": np.zeros((1, 2))}).scores == {"0": 0.5, "1": 0.5}


def test_letters_with_accents_are_the_same_however_they_are_composed():
    for labels, cell in ((("café", "x"), "cafe\u0301"), (("cafe\u0301", "x"), "café"), (("x", "Å"), b"A\xcc\x8a")):
        assert of(Output("y", "classification", {"labels": labels})).truth(cell, BESIDE) == labels.index("x") ^ 1


def test_a_number_that_may_be_a_place_or_mean_no_or_yes_is_refused():
    told = of(Output("y", "classification", {"labels": ("no", "Yes")}))
    assert [int(told.truth(cell, BESIDE)) for cell in ("0", 1, 1.0, True, "Yes", "True", "FALSE")] == [0, 1, 1, 1, 1, 1, 0]
    with pytest.raises(DataError, match=r"'1' may mean either label(.|\n)*write yes and no in the rows"):
        of(Output("y", "classification", {"labels": ("yes", "no")})).truth(1, BESIDE)
