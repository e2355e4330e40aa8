"""What a lost device costs: the trial that it was to time, and after three in a row the search."""

from pathlib import Path

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.recipe import parse
from edgemm.contracts.search_parts import OutputLoss
from edgemm.errors import MeasureError, RemoteError
from edgemm.pipeline.searching.goal import goal_of
from edgemm.pipeline.searching.runners import Outcome
from edgemm.pipeline.searching.trial import Graph
from edgemm.pipeline.searching.trials import Trials, Wanted
from edgemm.progress import Progress

RECIPE = {
    "steps": [{"quantize": {}}],
    "targets": ["openvino"],
    "budgets": {"latency_p50_ms": 5},
    "search": {"space": {"quantize.calibration_samples": [8, 16]}},
}
GRAPH = Graph(Deployment("openvino", Path("model.onnx")), "key", 0.1, {"digit": OutputLoss(1.0)})


class Answering:
    """Answers every task."""

    def run(self, tasks, done):
        return [Outcome(GRAPH) for _ in tasks]


class Away:
    """A device that is gone for the trials of these numbers."""

    def __init__(self, *gone):
        self.gone, self.asked = gone, 0

    def measure(self, deployment, key, forbid):
        self.asked += 1
        if self.asked - 1 in self.gone:
            raise RemoteError("nvidia@orin cannot be reached.", why="No route to host.")
        return {"latency_p50_ms": 1.0}


def run(meter, count, *, at_once=10):
    card = cards.load("digits")
    recipe = parse(RECIPE, card=card)
    trials = Trials(goal_of(recipe, card), Answering(), meter, Progress())
    wanted = [Wanted(f"trial {number}", recipe) for number in range(count)]
    return [tried for begin in range(0, count, at_once) for tried in trials.run(wanted[begin : begin + at_once], "trials")]


def test_a_device_that_is_gone_for_a_moment_costs_that_trial():
    states = [(tried.state, tried.why) for tried in run(Away(1, 2), 5)]
    assert [state for state, _ in states] == ["answered", "failed", "failed", "answered", "answered"]
    assert states[1][1] == "nvidia@orin cannot be reached. No route to host."


def test_a_device_is_gone_whatever_the_processes_of_the_trials_do():
    with pytest.raises(MeasureError, match="the device that measures was gone for 3 trials in a row"):
        run(Away(1, 2, 3), 5, at_once=1)


def test_after_three_in_a_row_the_search_stops_and_says_that_the_same_command_goes_on():
    with pytest.raises(MeasureError, match=r"the device that measures was gone for 3 trials in a row\.\n.*\n.*the same command goes on"):
        run(Away(1, 2, 3), 5)
