"""Rows are answered several a call only where that is proved to answer the same, and to pay."""

import numpy as np
import pytest

from edgemm.box.measuring import batching
from edgemm.box.measuring.batching import ROWS, Batching, in_sets
from edgemm.contracts.dataset import Batch
from edgemm.errors import SpecMismatch

FEEDS = [{"x": np.full((1, 3), number, np.float32)} for number in range(ROWS)]


class Session:
    """Doubles its input; ``far`` is how far an answer in a batch is off."""

    def __init__(self, far=0.0, takes_many=True):
        self.far, self.takes_many, self.sizes = far, takes_many, []

    def run(self, feed):
        self.sizes.append(len(feed["x"]))
        if len(feed["x"]) > 1 and not self.takes_many:
            raise SpecMismatch("input 'x' wants one row.")
        return {"y": 2 * feed["x"] + (self.far if len(feed["x"]) > 1 else 0)}


@pytest.fixture(autouse=True)
def _always_worth_it(monkeypatch):
    monkeypatch.setattr(batching, "WORTH_S", 0.0)
    monkeypatch.setattr(batching, "LEAST_SETS", 0)


def asked(session, *, precision="f32", sets=3, rows=10_000):
    runner = Batching(session.run, rows=rows, precision=precision)
    answers = [answer for _ in range(sets) for answer in runner.answers(FEEDS)]
    assert all(answer["y"].shape == (1, 3) for answer in answers)
    return [float(answer["y"][0, 0]) for answer in answers]


def test_the_first_rows_are_answered_both_ways_and_the_others_in_batches():
    session = Session()
    assert asked(session, sets=2) == [2.0 * number for number in range(ROWS)] * 2
    assert session.sizes == [1] * ROWS + [ROWS, ROWS]


@pytest.mark.parametrize("session", [Session(far=0.1), Session(takes_many=False)])
def test_what_answers_a_batch_otherwise_or_not_at_all_gets_one_row_a_call(session):
    assert asked(session) == [2.0 * number for number in range(ROWS)] * 3
    assert session.sizes.count(1) == 3 * ROWS


def test_float32_may_sum_in_another_order_and_integers_may_not():
    exact, loose = Session(far=1e-5), Session(far=1e-5)
    asked(exact, precision="int8+f32")
    asked(loose, precision="f32")
    assert exact.sizes.count(1) == 3 * ROWS > loose.sizes.count(1)


@pytest.mark.parametrize(("limit", "value", "rows"), [("WORTH_S", 60.0, 10_000), ("SLOW_S", 0.0, 10_000), ("LEAST_SETS", 4, 4 * ROWS)])
def test_few_rows_quick_ones_and_very_slow_ones_are_not_worth_a_trial(monkeypatch, limit, value, rows):
    monkeypatch.setattr(batching, limit, value)
    session = Session()
    asked(session, rows=rows)
    assert session.sizes == [1] * 3 * ROWS


def test_rows_that_do_not_fill_a_batch_are_asked_alone():
    session = Session()
    runner = Batching(session.run, rows=ROWS + 2, precision="f32")
    runner.answers(FEEDS)
    runner.answers(FEEDS[:2])
    assert session.sizes[-2:] == [1, 1]


def test_batches_of_several_rows_and_large_rows_stay_alone():
    one, many = (Batch({"x": np.zeros((n, 3))}, {}, {}, np.arange(n)) for n in (1, 5))
    large = Batch({"x": np.zeros((1, 1 << 20))}, {}, {}, np.arange(1))
    assert [len(some) for some in in_sets([one] * (ROWS + 3))] == [ROWS, 3]
    assert [len(some) for some in in_sets([many] * 2)] == [1, 1]
    assert [len(some) for some in in_sets([large] * 2)] == [1, 1]
