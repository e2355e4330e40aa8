"""When a class is on: thresholds, debounce, hysteresis, cool-down; numbers and pairs of embeddings."""

import numpy as np
import pytest

from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.settings import DecisionSettings
from edgemm.contracts import card_file as cards


def card(**outputs):
    return cards.parse({"model": "m.onnx", "inputs": {"x": {"modality": "sensor", "shape": [2]}}, "outputs": outputs})


EVENT = {"task": "classification", "labels": ["quiet", "glass"]}


def logits(score):
    """Two logits whose softmax gives the second class ``score``."""
    return {"event": np.array([[0.0, np.log(score / (1 - score))]], np.float32)}


def play(decider, scores, *, step_s=1.0):
    """The changes of class glass: (moment, on or off, is it an event)."""
    found = []
    for moment, score in enumerate(scores):
        _, changes = decider.update(logits(score), moment * step_s)
        found += [(moment, change.is_on, change.is_event) for change in changes if change.label == "glass"]
    return found


def decider(**settings):
    return Decider(card(event=EVENT), {"event": DecisionSettings(**{"quiet": ["quiet"], **settings})})


def test_a_class_goes_on_after_as_many_agreeing_decisions_as_asked_for():
    assert play(decider(debounce=3, threshold=0.6), [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]) == [(5, True, True)]


def test_between_release_and_threshold_nothing_changes():
    assert play(decider(debounce=1, threshold=0.6, release=0.4), [0.7, 0.5, 0.45, 0.55, 0.3]) == [(0, True, True), (4, False, False)]


def test_within_its_cool_down_a_class_goes_on_without_an_event():
    found = play(decider(debounce=1, cool_down_s=3.0), [0.9, 0.1, 0.9, 0.1, 0.9])
    assert [(moment, event) for moment, on, event in found if on] == [(0, True), (2, False), (4, True)]


def test_a_class_may_have_a_threshold_of_its_own():
    strict = decider(debounce=1, classes={"glass": {"threshold": 0.95}})
    assert play(strict, [0.9, 0.96]) == [(1, True, True)]


def test_a_threshold_set_while_running_wins():
    one = decider(debounce=1, classes={"glass": {"threshold": 0.95}})
    one.threshold = 0.5
    assert play(one, [0.6]) == [(0, True, True)]


def test_a_quiet_class_is_never_an_event():
    _, changes = decider(debounce=1).update(logits(0.01), 0.0)
    assert [(change.label, change.is_on, change.is_event) for change in changes] == [("quiet", True, False)]


def test_the_leading_class_is_held_for_as_long_as_the_debounce():
    one = decider(debounce=2)
    leads = [one.update(logits(score), moment)[0]["event"].label for moment, score in enumerate([0.1, 0.9, 0.1, 0.9, 0.9])]
    assert leads == ["quiet", "quiet", "quiet", "quiet", "glass"]


def test_several_labels_may_be_on_at_once():
    one = Decider(card(tags={"task": "multilabel", "labels": ["dog", "bell"]}), {"tags": DecisionSettings(debounce=1)})
    readings, changes = one.update({"tags": np.array([[4.0, 4.0]])}, 0.0)
    assert readings["tags"].on == ("dog", "bell")
    assert len(changes) == 2


def test_a_number_is_told_again_only_when_it_moved():
    one = Decider(card(level={"task": "regression", "unit": "dB"}), {"level": DecisionSettings(change=2.0)})
    moved = [one.update({"level": np.array([[value]])}, 0.0)[0]["level"].moved for value in (10.0, 11.0, 12.5, 12.0)]
    assert moved == [True, False, True, False]


def test_a_pair_of_embeddings_becomes_its_likeness():
    both = {"seen": {"task": "embedding", "pair": "said"}, "said": {"task": "embedding"}}
    readings, _ = Decider(card(**both), {}).update({"seen": np.array([[1.0, 0.0]]), "said": np.array([[1.0, 1.0]])}, 0.0)
    assert readings["seen"].value == pytest.approx(np.sqrt(0.5))
    assert "said" not in readings


def test_of_a_series_the_last_step_decides():
    steps = {"task": "classification", "labels": ["a", "b"], "per_step": True}
    readings, _ = Decider(card(event=steps), {}).update({"event": np.array([[[9.0, 0.0], [0.0, 9.0]]])}, 0.0)
    assert readings["event"].label == "b"


def test_where_settings_say_nothing_the_threshold_is_the_bundle_s():
    tags = card(tags={"task": "multilabel", "labels": ["dog", "bell"]})
    answers = {"tags": np.array([[-1.0, -1.0]])}  # a chance of 0.27 each
    one = Decider(tags, {"tags": DecisionSettings(debounce=1)}, {"tags": {"dog": 0.2}})
    assert one.update(answers, 0.0)[0]["tags"].on == ("dog",)
    assert one.update({"tags": np.array([[-1.9, 0.0]])}, 1.0)[0]["tags"].on == ("dog",), "0.13 is above half of 0.2"
    one.refit({"tags": {"bell": 0.2}})
    assert one.update(answers, 2.0)[0]["tags"].on == ("bell",), "0.27 of a dog is below 0.5 now"
    own = Decider(tags, {"tags": DecisionSettings(threshold=0.25, debounce=1)}, {"tags": {"dog": 0.9}})
    assert own.update(answers, 0.0)[0]["tags"].on == ("dog", "bell")
