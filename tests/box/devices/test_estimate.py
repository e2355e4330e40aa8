"""Estimates for boards that are not at hand: near the published times, with intervals that hold them, and named by what limits them."""

import importlib.util
from pathlib import Path
from statistics import median

import pytest

from edgemm.box.devices import boards
from edgemm.box.devices.estimate import estimate, latency_ms
from edgemm.contracts.layer_work import LayerWork
from edgemm.errors import EdgemmError

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "roofline.py"


@pytest.fixture(scope="module")
def roofline():
    spec = importlib.util.spec_from_file_location("roofline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["roofline"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("family", "most"), [("orin", 0.05), ("thor", 0.05)])
def test_the_median_error_against_published_times_is_below_five_percent(roofline, family, most):
    own = [time for time in roofline.published("times_ms") if boards.load(time.board).family == family]
    assert len(own) == {"orin": 45, "thor": 15}[family]
    assert median(roofline.errors(own)) < most


def test_nine_of_ten_published_times_lie_in_the_interval_and_so_does_one_that_the_fit_has_not_seen(roofline):
    times = [*roofline.published("times_ms"), *roofline.published("unseen_ms")]
    inside = [(board := boards.load(time.board)).low <= time.measured_ms / roofline.estimated(time, board) <= board.high for time in times]
    assert sum(inside) >= 0.9 * len(inside)
    assert inside[-1]


@pytest.mark.parametrize("name", boards.known())
def test_every_board_is_complete_and_faster_at_less_precision(name):
    board = boards.load(name)
    assert board.title
    assert board.source
    assert board.gops["fp32"] <= board.gops["fp16"] <= board.gops["int8"]
    assert board.low < 1 < board.high
    assert all(0 < part <= 1 for part in board.reach.values())


def test_peaks_are_those_of_dense_matrices():
    assert boards.load("orin-nano-8gb-super").gops["int8"] == pytest.approx(33_423, rel=0.01)  # 67 sparse TOPS
    assert boards.load("thor-t5000").gops["int8"] == pytest.approx(516_000, rel=0.01)  # as measured with a GEMM


def test_an_unknown_board_names_the_nearest():
    with pytest.raises(EdgemmError, match=r"no board 'orin-nano-super'\.\n  fix: did you mean 'orin-nano-.*-super'\? known: agx-orin-32gb"):
        boards.load("orin-nano-super")


def test_what_limits_a_branch_is_named():
    board = boards.load("agx-orin-64gb")
    heavy = LayerWork("compute", 5_000_000_000, 1_000_000, 1_000_000, quantizable=True)
    fat = LayerWork("memory", 1000, 300_000_000, 1000, quantizable=True)
    many = LayerWork("layers", 1000, 10, 1000, launches=500)
    found = estimate([heavy, fat, many], board)
    assert {row.branch: row.bound for row in found.rows if row.precision == "fp16" and row.branch != "total"} == {
        "compute": "compute",
        "memory": "memory",
        "layers": "layers",
    }
    assert found.total("fp16").latency_ms == pytest.approx(sum(row.latency_ms for row in found.rows if row.precision == "fp16") / 2)
    assert found.total("int8").latency_ms < found.total("fp16").latency_ms < found.total("fp32").latency_ms
    assert "nothing was run" in str(found)
    assert found.to_dict()["rows"][0]["branch"] == "compute"


def test_what_int8_does_not_run_stays_in_fp16():
    board = boards.load("orin-nx-16gb")
    recurrent = LayerWork("audio", 10**9, 10**6, 10**6)
    assert latency_ms([recurrent], "int8", board) == latency_ms([recurrent], "fp16", board)


def test_a_model_smaller_than_all_of_the_fit_gets_a_wide_interval_and_says_so():
    board = boards.load("orin-nano-8gb-super")
    small = estimate([LayerWork("image", 10**6, 10**4, 10**4)], board).total("fp16")
    assert (small.low_ms, small.high_ms) == pytest.approx((small.latency_ms * board.low / 2, small.latency_ms * board.high * 2))
    assert "smaller than the 5.4 GOP of its smallest model" in str(estimate([LayerWork("image", 10**6, 10**4, 10**4)], board))
