"""Thresholds by a rate of false alarms."""

import numpy as np
import pytest

from edgemm.box.serving.alarms import EventCount, Watched, again, fitted, interval, written_into
from edgemm.box.serving.settings import DecisionSettings, Settings
from edgemm.errors import RunError

SETTINGS = Settings(decisions={"word": DecisionSettings(debounce=1, cool_down_s=0.0)})


def night(rng, *, decisions=2000, hours=24.0):
    """Scores of a camera that sees nothing: slow moods with peaks of a second."""
    mood = np.convolve(rng.normal(0, 1, decisions + 20), np.ones(20) / 20, "valid")[:decisions]
    scores = 1 / (1 + np.exp(-(mood + rng.gumbel(0, 0.8, decisions) - 3)))
    times = np.linspace(0, hours * 3600, decisions)
    return Watched(hours * 3600, times, {"word": {"parcel": scores, "nothing": 1 - scores}})


def test_a_threshold_fitted_on_one_night_holds_its_rate_on_the_next():
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        first, second = night(rng), night(rng)
        one = next(entry for entry in fitted(first, SETTINGS, per_day=8.0) if entry.label == "parcel")
        assert one.alarms <= 8
        alarms = EventCount(second.times_s, second.scores["word"]["parcel"], SETTINGS.decisions["word"])(one.threshold)
        held += one.again[0] <= alarms <= one.again[1]
    assert held >= 95


def test_what_leads_while_nothing_happens_is_never_an_event():
    every = {entry.label: entry for entry in fitted(night(np.random.default_rng(0)), SETTINGS, per_day=8.0)}
    assert every["nothing"].quiet
    assert not every["parcel"].quiet


def test_too_short_a_recording_is_refused_with_the_length_that_it_needs():
    with pytest.raises(RunError, match=r"too short for 1 alarms a day: 2\.00 h") as caught:
        fitted(night(np.random.default_rng(0), hours=2.0), SETTINGS, per_day=1.0)
    assert "record at least 24.0 h" in str(caught.value)
    assert "ask for 12 alarms a day" in str(caught.value)


def test_a_class_that_is_always_on_gets_a_threshold_above_its_scores():
    steady = Watched(86400.0, np.arange(100.0) * 864, {"word": {"hum": np.linspace(0.8, 0.9, 100)}})
    (one,) = fitted(steady, SETTINGS, per_day=1.0)
    assert one.threshold > 0.84


def test_the_intervals_are_poissons():
    assert interval(0) == pytest.approx((0.0, 3.6889), abs=1e-3)
    assert interval(10) == pytest.approx((4.7954, 18.3904), abs=1e-3)
    assert again(0) == (0, 3)
    low, high = again(10)
    assert low < 10 < high


def test_run_yaml_keeps_what_else_stands_in_it():
    every = fitted(night(np.random.default_rng(0)), SETTINGS, per_day=8.0)
    before = {"name": "porch", "decisions": {"word": {"debounce": 3, "classes": {"parcel": {"release": 0.2, "debounce": 1}}}}}
    after = written_into(before, every)
    own = after["decisions"]["word"]
    assert after["name"] == "porch"
    assert own["debounce"] == 3
    assert own["quiet"] == ["nothing"]
    assert own["classes"]["parcel"] == {"debounce": 1, "threshold": next(one.threshold for one in every if one.label == "parcel")}
    assert before["decisions"]["word"]["classes"]["parcel"] == {"release": 0.2, "debounce": 1}
