"""What of an answer is explained, and how far two maps agree."""

import numpy as np
import pytest

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.data.explained import Question, agreement
from edgemm.errors import EdgemmError

LABELS = ("quiet", "visitor", "intruder")
LOGITS = {"y": np.array([[0.0, 3.0, 1.0]], np.float32)}


def test_a_label_is_explained_by_its_log_odds():
    question = Question.about(tasks.of(Output("y", "classification", {"labels": LABELS})), LOGITS)
    assert (question.label, question.unit, question.place) == ("visitor", "log-odds", 1)
    chance = question.value(LOGITS)
    assert chance == pytest.approx(np.exp(3) / np.exp([0, 3, 1]).sum())
    assert question.strength(LOGITS) == pytest.approx(np.log(chance / (1 - chance)), rel=1e-6)
    other = Question.about(question.task, LOGITS, "intruder")
    assert other.strength(LOGITS) == pytest.approx(1 - np.log(1 + np.exp(3)), rel=1e-6)
    with pytest.raises(EdgemmError, match=r"'y' has no label 'vistor'"):
        Question.about(question.task, LOGITS, "vistor")


def test_of_several_labels_each_is_its_own_logit_and_a_number_is_itself():
    several = Question.about(tasks.of(Output("y", "multilabel", {"labels": LABELS})), LOGITS)
    assert (several.label, several.strength(LOGITS)) == ("visitor", 3.0)
    number = Question.about(tasks.of(Output("y", "regression", {"unit": "dB"})), {"y": np.array([[61.5]], np.float32)})
    assert (number.label, number.unit, number.strength({"y": np.array([[61.5]])})) == ("", "dB", 61.5)
    assert number.usual({"y": np.array([[1.0], [3.0]])}) == 2.0
    assert Question.about(tasks.of(Output("y", "embedding")), {"y": np.ones((1, 4))}) is None


def test_agreement_is_spearmans_where_what_is_nothing_to_both_ties():
    rng = np.random.default_rng(0)
    worth = np.exp(rng.normal(0, 1, 50))
    assert agreement({"x": worth}, {"x": 3 * worth}) == pytest.approx(1)
    assert agreement({"x": worth}, {"x": -worth}) == pytest.approx(-1)
    background = np.concatenate([np.full(100, 0.0), [5.0, 4.0, 3.0]])
    assert agreement({"x": background}, {"x": background + rng.normal(0, 1e-3, 103)}) == pytest.approx(1)
    assert agreement({"x": background / 1e3}, {"x": -background / 1e3}, least=0.02) is None
    assert agreement({"x": np.zeros(3)}, {"x": np.zeros(3)}) is None
    assert agreement({"x": np.ones(3)}, {"x": np.arange(3.0)}) is None
