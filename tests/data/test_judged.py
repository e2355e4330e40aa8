"""Figures of each label, held against scikit-learn's, and what a report shows of them."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.judged import SPECIFICITY, by_label, judged, macro, told

metrics = pytest.importorskip("sklearn.metrics")


def rows(count=200, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, count)
    logits = rng.normal(size=(count, labels)).round(1)  # ties are among them
    logits[np.arange(count), truth] += 1.0
    return logits, truth


def test_curves_and_areas_are_scikit_learns():
    logits, truth = rows()
    positive = truth[:, None] == np.arange(3)
    for place, label in enumerate(by_label(["a", "b", "c"], logits, positive, logits > 0.5)):
        y, scores = positive[:, place], logits[:, place]
        assert label.auroc == pytest.approx(metrics.roc_auc_score(y, scores))
        assert label.average_precision == pytest.approx(metrics.average_precision_score(y, scores))
        assert label.precision == pytest.approx(metrics.precision_score(y, scores > 0.5))
        assert label.recall == pytest.approx(metrics.recall_score(y, scores > 0.5))
        false, found, _ = metrics.roc_curve(y, scores, drop_intermediate=False)
        assert label.sensitivity == pytest.approx(found[false <= 1 - SPECIFICITY + 1e-12].max())
        assert label.roc[0] == (0.0, 0.0)
        assert label.roc[-1] == (1.0, 1.0)
        assert len(label.roc) <= 64


def test_a_label_that_no_row_has_is_counted_and_left_out_of_the_means():
    logits, truth = rows()
    positive = (truth[:, None] == np.arange(3)) & (np.arange(3) < 2)
    labels = by_label(["a", "b", "c"], logits, positive, logits > 0.5)
    assert labels[2].n == 0
    assert macro(labels)["average_precision"] == pytest.approx(np.mean([label.average_precision for label in labels[:2]]))
    assert set(told(labels)["c"]) == {"n", "precision", "specificity"}


def test_outputs_with_labels_are_judged_before_and_after():
    outputs = {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}}
    card = cards.parse({"factory": "a:b", "inputs": {"x": {"modality": "sensor", "shape": [1]}}, "outputs": outputs})
    logits, truth = rows()
    answers = {"kind": logits, "level": logits[:, 0]}
    found = judged(card, {"kind": truth, "level": logits[:, 0]}, {}, answers)
    assert list(found) == ["kind"]
    assert [label.label for label in found["kind"].after] == ["a", "b", "c"]
    assert not found["kind"].before
    assert 0 < found["kind"].known.ece < 1
    assert judged(card, {"kind": truth}, answers, answers)["kind"].before == found["kind"].after


def test_of_many_labels_the_curves_of_those_told_worst_are_kept():
    names = [f"l{number}" for number in range(40)]
    outputs = {"kind": {"task": "classification", "labels": names}}
    card = cards.parse({"factory": "a:b", "inputs": {"x": {"modality": "sensor", "shape": [1]}}, "outputs": outputs})
    logits, truth = rows(400, 40)
    labels = judged(card, {"kind": truth}, {}, {"kind": logits})["kind"].after
    drawn = [label.auroc for label in labels if label.roc]
    assert len(labels) == 40
    assert len(drawn) == 12
    assert max(drawn) <= min(label.auroc for label in labels if not label.roc)
