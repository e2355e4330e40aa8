"""Any number of labels: macro F1 and its kin against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics import classification as oracle

from edgemm.contracts.card import Output
from edgemm.contracts.task import of

TAGS = Output("tags", "multilabel", {"labels": tuple("abcde")})


def answered(n=200):
    rng = np.random.default_rng(0)
    answers, truth = rng.normal(size=(n, 5)).astype(np.float32), (rng.random((n, 5)) < 0.3).astype(np.float32)
    truth[:, 4] = 0
    return answers, truth


def test_macro_f1_equals_torchmetrics_with_a_label_that_never_occurs():
    answers, truth = answered()
    score = of(TAGS).measure({"tags": answers}, truth).score()
    expected = oracle.MultilabelF1Score(5, average="macro")(torch.sigmoid(torch.tensor(answers)), torch.tensor(truth).int())
    assert score.value == pytest.approx(float(expected), abs=1e-6)
    assert (score.name, score.n) == ("f1", 200)


def test_what_train_tells_beside_equals_torchmetrics():
    answers, truth = answered()
    found = of(TAGS).further({"tags": answers}, truth)
    scores, true = torch.sigmoid(torch.tensor(answers)), torch.tensor(truth).int()
    metrics = {
        "accuracy": oracle.MultilabelAccuracy(5, average="micro"),
        "precision": oracle.MultilabelPrecision(5),
        "recall": oracle.MultilabelRecall(5),
    }
    for name, metric in metrics.items():
        assert found[name] == pytest.approx(float(metric(scores, true)), abs=1e-6)
    four = oracle.MultilabelAUROC(4, average="macro")(scores[:, :4], true[:, :4])
    assert found["auroc"] == pytest.approx(float(four), abs=1e-6), "the fifth label has no row"


def test_steps_are_averaged_over_and_counted_by_row():
    rng = np.random.default_rng(0)
    answers, truth = rng.normal(size=(20, 7, 4)).astype(np.float32), rng.integers(0, 2, (20, 7, 4))
    names = {"labels": tuple("abcd")}
    score = of(Output("y", "multilabel", {**names, "per_step": True})).measure({"y": answers}, truth).score()
    flat = of(Output("y", "multilabel", names)).measure({"y": answers.reshape(-1, 4)}, truth.reshape(-1, 4)).score()
    assert score.value == pytest.approx(flat.value, rel=1e-6)
    assert score.n == 20


def test_a_reading_has_a_sigmoid_each():
    seen = of(Output("y", "multilabel", {"labels": ("a", "b")})).read({"y": np.array([[0.0, 1000.0]])})
    assert seen.scores == {"a": 0.5, "b": 1.0}
