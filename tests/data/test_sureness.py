"""How sure an answer is, by each criterion, over heads."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.sureness import Sureness

CARD = cards.parse(
    {
        "model": "m.onnx",
        "inputs": {"a": {"modality": "sensor", "shape": [2]}},
        "outputs": {
            "event": {"task": "classification", "labels": ["x", "y", "z"]},
            "tags": {"task": "multilabel", "labels": ["p", "q"]},
            "level": {"task": "regression"},
        },
    }
)
LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]))
CLEAR = np.full((2, 2), 30.0)


def answers(event=LOGITS, tags=CLEAR):
    return {"event": event.astype(np.float32), "tags": tags.astype(np.float32), "level": np.zeros((2, 1), np.float32)}


def test_each_criterion_says_what_it_is_called():
    sure = Sureness(CARD)
    assert sure.heads == ["event", "tags"]
    assert sure.of("confidence", answers()) == pytest.approx([0.7, 0.4], abs=1e-6)
    assert sure.of("margin", answers()) == pytest.approx([0.5, 0.1], abs=1e-6)
    shares = np.exp(LOGITS)
    assert sure.of("entropy", answers()) == pytest.approx(1 + (shares * LOGITS).sum(1) / np.log(3), abs=1e-6)


def test_it_is_as_sure_as_the_least_sure_head_and_the_least_clear_label():
    unclear = CLEAR.copy()
    unclear[0, 1] = np.log(0.45 / 0.55)
    sure = Sureness(CARD)
    assert sure.of("confidence", answers(tags=unclear))[0] == pytest.approx(0.55, abs=1e-6)
    assert sure.of("margin", answers(tags=unclear))[0] == pytest.approx(0.1, abs=1e-6)


def test_two_answers_disagree_where_any_head_decides_otherwise():
    other = CLEAR.copy()
    other[1, 0] = -1.0
    assert Sureness(CARD).disagree(answers(), answers(tags=other)).tolist() == [False, True]
    assert Sureness(CARD).disagree(answers(), answers(event=LOGITS[::-1, ::-1].copy())).tolist() == [True, True]
    assert Sureness(CARD).disagree(answers(), answers(event=LOGITS * 0.5)).tolist() == [False, False]
