"""Gates on a running box: what is skipped and counted, what opens them, and that shadow runs find what has broken."""

import json
import random
import threading

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.gating import PATIENT, Gates
from edgemm.box.serving.model import open_model
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.shadowing import BAR, CLOSED_AFTER, Watch
from edgemm.box.serving.windows import Windows
from edgemm.contracts.gate import EXACT, Gate
from edgemm.contracts.source import Item
from edgemm.errors import EdgemmError
from tests.box.serving.conftest import BRIGHT, DARK, RATE_HZ, make_bundle, write_clip
from tests.box.serving.test_scheduling import Picture

FED = {"sources": [{"stream": {"inputs": ["image", "audio"], "url": "rtsp://camera/live"}}]}
INTRUDER, HUSH = (BRIGHT, 0.35), (DARK, 0.0)
"""What one hears and sees of it: the sound alone says as much."""


def gate(**more):
    """Silence is 0.5 sure of being quiet, a loud sound 0.79 of an intruder."""
    about = {"run": "image", "after": ("audio",), "criterion": "confidence", "threshold": 0.45, "loss_points": 0.3, "lost_points": 0.0}
    about |= {"bound_points": 0.2, "bound": EXACT, "skipped": 0.9, "rows": 2000, "limit": 0.01, "shadow": 0.1}
    return Gate(**(about | more))


class Play:
    """An engine with a gate, fed five times a second on a clock of its own."""

    def __init__(self, bundle, *gates, **settings):
        opened = open_bundle(bundle)
        self.settings = parse({**FED, **settings}, opened.card)
        self.model = open_model(opened, "onnxruntime")
        self.windows = Windows(opened.card, ["image", "audio"])
        self.gates = Gates(gates or [gate()], opened.card, self.settings.gates, draw=random.Random(7).random)
        decider = Decider(opened.card, self.settings.decisions)
        self.engine = Engine(self.model, self.windows, decider, self.settings, opened.card, gates=self.gates)
        self.now = 0.0

    def run(self, decisions, *moments):
        """So many ticks, over the moments in turn: brightness and loudness; None = that input is silent."""
        found = []
        for number in range(decisions):
            self.now += 0.2
            light, loud = moments[number // 5 % len(moments)]
            if loud is not None:
                self.windows.offer(Item("audio", np.full(RATE_HZ // 2, loud, np.float32), self.now), self.now)
            if light is not None:
                self.windows.offer(Item("image", Picture(light), self.now), self.now)
            found += [decision for decision in [self.engine.step(self.now)] if decision]
        return found

    @property
    def state(self):
        return self.gates.describe()[0]


@pytest.fixture
def play(bundle):
    made = []

    def start(*gates, **settings):
        made.append(Play(bundle, *gates, **settings))
        return made[-1]

    yield start
    for one in made:
        one.model.close()


def test_the_branch_runs_first_and_then_only_where_the_answer_without_it_is_unsure(play):
    one = play(gate(threshold=0.7, shadow=0.0))
    first, *rest = one.run(10, INTRUDER)
    assert (first.voted, first.skipped) == (("image", "audio"), ())
    assert {(d.voted, d.skipped, d.stood_in) for d in rest} == {(("audio",), ("image",), ())}
    assert one.engine.ran == {"image": 1, "audio": 10}
    assert one.run(5, HUSH)[-1].voted == ("image", "audio")
    assert (one.state["skipped"], one.state["passed"]) == (9, 6)
    assert one.state["skipped_share"] == 0.6


def test_a_skipped_decision_is_the_answer_without_the_branch_and_keeps_its_picture(play):
    one = play(gate(shadow=0.0))
    skipped = one.run(5, INTRUDER)[-1]
    alone = one.engine.alone()["audio"]["event"].scores
    assert skipped.readings["event"].scores == pytest.approx(alone)
    assert skipped.frames["image"].light == BRIGHT
    assert skipped.known == ("audio", "image")


def test_a_branch_that_was_left_out_runs_at_once_where_the_gate_opens(play):
    one = play(gate(threshold=0.7, shadow=0.0), inputs={"image": {"rate_hz": 0.5}})
    one.run(10, INTRUDER)
    assert one.run(1, HUSH)[0].voted == ("image", "audio")


def test_it_opens_where_what_it_judges_by_is_missing_or_stale(play):
    one = play(gate(shadow=0.0), inputs={"audio": {"stale_s": 0.5}})
    one.run(5, INTRUDER)
    silent = one.run(10, (BRIGHT, None))
    assert (silent[-1].voted, silent[-1].stood_in) == (("image",), ("audio",))
    assert (one.state["state"], one.state["why"]) == ("open", "nothing from audio")


def test_a_camera_that_is_away_is_missing_and_not_skipped(play):
    one = play(gate(shadow=0.0), inputs={"image": {"stale_s": 0.5}})
    one.run(5, INTRUDER)
    last = one.run(10, (None, 0.35))[-1]
    assert (last.voted, last.skipped, last.stood_in) == (("audio",), (), ("image",))


def test_the_floor_lets_it_run_so_often_whatever_the_sound_says(play):
    one = play(gate(every_s=2.0, shadow=0.0))
    one.run(101, INTRUDER)
    assert one.engine.ran["image"] == pytest.approx(11, abs=1)
    own = play(gate(shadow=0.0), gates={"every_s": 1.0})
    own.run(101, INTRUDER)
    assert own.engine.ran["image"] == pytest.approx(20, abs=3)


def test_a_shadow_run_waits_for_a_picture_that_costs_little_and_as_many_run(play):
    state = play(gate(shadow=0.25)).gates.states[0]
    costs = [1 + number % 10 for number in range(400)]  # a key frame every ten
    ran = [cost for number, cost in enumerate(costs) if state.is_time(number % 20 == 3, cost)]
    assert ran == [1] * 20
    impatient = [number for number in range(200) if state.is_time(number == 100, 5 + number)]  # none comes: not for ever
    assert impatient == [100 + PATIENT - 1]
    assert [state.is_time(True, cost) for cost in (9, 3, 6, 0, 0, 0)] == [True, True, False, True, True, True]
    state.watch.see(True)  # it looks closer now
    assert state.is_time(True, 400)


def test_what_a_gate_skips_is_not_decoded_while_it_is_skipped(bundle, tmp_path):
    opened = open_bundle(bundle)
    plain = {"sources": [{"stream": {"inputs": ["image", "audio"], "url": str(write_clip(tmp_path / "porch.mp4"))}}]}
    costs = {}
    for use in (True, False):
        runner = Runner(opened, parse(plain, opened.card), fast=True)
        states = Gates([gate(shadow=0.0)], opened.card) if use else Gates((), opened.card)
        runner.engine.gates = states
        costs[use] = []
        runner.on_decision.append(lambda decision, use=use: costs[use].append(decision.frames["image"].cost))
        runner.run(threading.Event())
    assert not any(costs[False])
    assert sum(cost > 0 for cost in costs[True]) > len(costs[True]) / 2


def test_the_settings_may_do_without_gates_and_another_bundle_begins_anew(play, bundle):
    one = play(gates={"use": False})
    assert all(decision.skipped == () for decision in one.run(10, INTRUDER))
    two = play(gate(shadow=0.0))
    two.run(5, INTRUDER)
    two.engine.swap(two.model, Gates([gate(shadow=0.0)], open_bundle(bundle).card))
    assert two.run(1, INTRUDER)[0].skipped == ()
    with pytest.raises(EdgemmError, match=r"gates.shadow: 3 is no share"):
        parse({**FED, "gates": {"shadow": 3}}, open_bundle(bundle).card)


def test_shadow_runs_are_counted_answer_nothing_and_agree_while_all_is_well(play):
    one = play()
    decisions = one.run(1000, INTRUDER, HUSH)
    assert all(decision.skipped for decision in decisions[1:])
    shadow = one.state["shadow"]
    assert 60 < shadow["runs"] < 140
    assert shadow["disagreed"] == 0
    assert shadow["low"] == 0.0 < shadow["high"] < 0.06
    assert one.state["state"] == "judging"


@pytest.mark.parametrize(
    ("broken", "moments"),
    [("microphone", [(BRIGHT, 0.0), (DARK, 0.0)]), ("camera", [(DARK, 0.35), (DARK, 0.0)])],
)
def test_a_broken_microphone_and_a_darkened_camera_are_found_within_200_decisions(play, broken, moments):
    one = play()
    one.run(2000, INTRUDER, HUSH)
    drifted = one.run(200, *moments)
    told = [(number, news) for number, decision in enumerate(drifted) for news in decision.gates]
    assert [news.kind for _, news in told] == ["gate_opened"], broken
    assert "decide otherwise with 'image'" in told[0][1].why
    assert (one.state["state"], one.state["why"]) == ("open", "shadow runs disagree more often than it allows")
    assert drifted[-1].voted == ("image", "audio")


def test_it_shuts_again_once_both_answers_agree_for_long_enough(play):
    one = play()
    one.run(50, INTRUDER, HUSH)
    one.run(200, (BRIGHT, 0.0))
    assert one.state["state"] == "open"
    back = one.run(CLOSED_AFTER + 20, INTRUDER, HUSH)
    assert [news.kind for decision in back for news in decision.gates] == ["gate_shut"]
    assert back[-1].skipped == ("image",)


def test_without_drift_a_watch_stays_quiet_and_evidence_of_long_ago_is_no_shield():
    rng = np.random.default_rng(0)
    watch = Watch(0.02)
    assert not any(watch.see(bool(apart)) for apart in rng.random(3000) < 0.01)
    assert sum(1 for _ in range(20) if not watch.is_open and watch.see(True) is False) < 5, "a few in a row are enough"
    assert BAR == 1e4


def test_a_cascade_asks_the_cheaper_gate_first_and_leaves_out_what_comes_after(play, bundle):
    card = open_bundle(bundle).card
    gates = Gates([gate(run="audio", after=("image",)), gate(run="image", after=("image", "audio")[1:])], card)
    assert [sorted(state.covers) for state in gates.states] == [["audio", "image"], ["image"]]


class Scenes:
    """Intruders and silence, then a microphone that is broken."""

    inputs, live, notes = ("image", "audio"), False, []

    def describe(self):
        return "scenes"

    def items(self, wants):
        for number in range(500):
            light, loud = (INTRUDER, HUSH)[number // 5 % 2]
            at_s = (number + 1) * 0.5
            yield Item("audio", np.full(RATE_HZ // 2, loud if number < 200 else 0.0, np.float32), at_s)
            yield Item("image", Picture(light), at_s)


@pytest.fixture(scope="module")
def gated_bundle(shared):
    return shared("run-bundle-gated", lambda folder: make_bundle(folder, gates=[gate()])) / "bundle"


def test_a_run_obeys_the_bundles_gate_and_tells_it_everywhere(gated_bundle, tmp_path, monkeypatch):
    from prometheus_client import CollectorRegistry, generate_latest

    from edgemm.box.serving.web import _Metrics

    monkeypatch.setattr(random, "random", random.Random(7).random)
    opened = open_bundle(gated_bundle)
    sinks = [{"jsonl": {"path": str(tmp_path / "events.jsonl"), "decisions": True}}]
    plain = {"sources": [{"folder": {"inputs": ["image", "audio"], "path": "."}}], "sinks": sinks}
    runner = Runner(opened, parse(plain, opened.card), fast=True)
    runner.sources = [Scenes()]
    summary = runner.run(threading.Event())
    skipped, passed = summary.skipped["image"]
    assert skipped > 190
    assert f"gate of image: {skipped} of {skipped + passed} calls skipped" in str(summary)
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    events = [row for row in rows if row.get("kind") == "gate_opened"]
    assert len(events) == 1
    assert (events[0]["label"], events[0]["type"]) == ("image", "event")
    assert "decide otherwise" in events[0]["why"]
    assert any(row.get("skipped") == ["image"] and row["stood_in"] == [] for row in rows if row["type"] == "decision")
    status = runner.status()
    assert status["gates"][0]["state"] == "open"
    registry = CollectorRegistry()
    registry.register(_Metrics(status))
    told = generate_latest(registry).decode()
    for line in (
        f'edgemm_gate_skipped_total{{box="edgemm",input="image"}} {float(skipped)}',
        "edgemm_gate_open{",
        "edgemm_gate_disagreement{",
    ):
        assert line in told


def test_home_assistant_and_the_broker_are_told_of_gates(gated_bundle):
    from edgemm.box.serving.sinks._mqtt import homeassistant as ha
    from edgemm.box.serving.sinks.mqtt import TOLD

    opened = open_bundle(gated_bundle)
    runner = Runner(opened, parse(FED, opened.card))
    about = runner.about()
    entities = ha.components(about, "edgemm/porch", pictures=False)
    assert {"gate_image", "skipped_image"} <= entities.keys()
    assert {"gate_opened", "gate_shut"} <= {*entities["event"]["event_types"]}
    assert {"gates", "skipped"} <= {*TOLD}
    runner.model.close()


def test_a_bundle_that_runs_whole_or_elsewhere_has_no_gates(gated_bundle):
    opened = open_bundle(gated_bundle)
    whole = Runner(opened, parse({**FED, "whole": True}, opened.card))
    assert whole.engine.gates.states == []
    assert opened.gates("openvino") == []
    whole.model.close()


def test_a_recording_is_measured_with_gates_and_without(gated_bundle, tmp_path):
    import edgemm
    from tests.box.serving.conftest import write_clip

    (tmp_path / "porch").mkdir()
    write_clip(tmp_path / "porch" / "1.mp4", scenes=[HUSH, INTRUDER] * 2, seconds=2.0)
    report = edgemm.benchmark([gated_bundle], rounds=1, calls=1, launches=0, roofline=False, stream=tmp_path / "porch")
    (row,) = report.details.gated
    assert row.where == "porch"
    assert row.decisions > 20
    assert row.skipped["image"] > 0.5
    assert row.run_cpu_s > 0
    assert {m.name for m in report.measurements} >= {"stream_cpu_ms", "stream_cpu_ratio", "stream_skipped_ratio"}
