"""The page of a search shows its front, its trials, and what stood in the way."""

import json
from dataclasses import replace

from edgemm.contracts.interval import Interval
from edgemm.contracts.report import Report, read
from edgemm.contracts.report_parts import Details
from edgemm.contracts.search_parts import RULED_OUT, OnFront, OutputLoss, Searched, Tried
from edgemm.report.page import render


def tried(number: int, points: float, size: float) -> Tried:
    options = {"prune.macs_ratio": number / 10, "quantize.precision.<audio>": None}
    return Tried(f"trial {number}", options, losses={"digit": OutputLoss(points, points - 1, points + 1, n=600)}, costs={"size_mib": size})


FIRST = tried(1, 0.5, 0.4)
OUT = Tried("trial 3", {"prune.macs_ratio": 0.1}, costs={"size_mib": 1.5}, state=RULED_OUT, why="not trained: size_mib 1.5, limit 1")
SEARCHED = Searched(
    "openvino", "tpe", "the mean accuracy", 7, {"size_mib": 1.0, "accuracy_drop_points": {"digit": 2}}, [FIRST, tried(2, 3.0, 0.9), OUT],
    {"prune.macs_ratio": 0.75, "quantize.precision.<audio>": 0.25},
    [OnFront(FIRST, Interval(0.75, 0.5, 1.0), {"size_mib": 0.4, "latency_p50_ms": 0.25}, [7, 8], ["accuracy_drop_points 2.1, limit 2"])],
)  # fmt: skip


def page(searched: Searched) -> str:
    return render(Report({}, details=Details(title="digits, searched", search=searched)))


def test_the_front_stands_first_with_its_spread_and_what_it_misses():
    shown = page(SEARCHED)
    assert shown.index("<h2>The best</h2>") < shown.index("<h2>What mattered</h2>") < shown.index("<h2>Trials</h2>")
    assert "<small>0.500 … 1.00</small>" in shown
    assert "accuracy_drop_points 2.1, limit 2" in shown
    assert "quantize.precision.&lt;audio&gt; null" in shown
    assert "75 %" in shown


def test_every_answered_trial_is_a_dot_and_the_best_stands_out():
    shown = page(SEARCHED)
    assert shown.count('<polyline class="c0 end"') == 1
    assert shown.count('<polyline class="c5 end"') == 1
    assert "<title>trial 2: 3.00 points, 0.900</title>" in shown


def test_a_limit_is_drawn_where_it_lies_among_the_trials():
    assert 'class="limit"' not in page(replace(SEARCHED, budgets={"size_mib": 5.0}))
    assert 'class="limit"' in page(replace(SEARCHED, budgets={"size_mib": 0.6}))


def test_what_stands_in_the_way_is_an_alarm_and_there_is_no_front():
    shown = page(replace(SEARCHED, front=(), blocked="the nearest is trial 1: size_mib 0.4, limit 0.1. At best, each alone: size_mib 0.4."))
    assert '<p class="alarm">Nothing keeps the budgets: the nearest is trial 1: size_mib 0.4, limit 0.1.' in shown


def test_a_trial_that_was_ruled_out_says_by_what():
    assert '<span class="badge doubt">ruled out</span> <small>not trained: size_mib 1.5, limit 1</small>' in page(SEARCHED)


def test_a_report_of_a_search_is_read_back_as_it_was(tmp_path):
    Report({}, details=Details(search=SEARCHED)).save(tmp_path / "report.json")
    again = read(tmp_path / "report.json").details.search
    assert again.trials[0] == FIRST
    assert again.trials[0].points == 0.5
    assert json.loads((tmp_path / "report.json").read_text())["details"]["search"]["seed"] == 7
    assert page(again) == page(SEARCHED)
