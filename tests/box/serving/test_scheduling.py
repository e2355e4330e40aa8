"""The loop on a clock of its own: rates, staleness, missing inputs, controls."""

import threading

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.model import open_model
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.windows import Windows
from edgemm.contracts.source import Item
from tests.box.serving.conftest import BRIGHT, DARK, RATE_HZ

FED = {"sources": [{"stream": {"inputs": ["image", "audio"], "url": "rtsp://camera/live"}}]}


class Picture:
    def __init__(self, light):
        self.light = light

    def fitted(self, modality):
        return np.full((32, 32, 3), self.light, np.uint8)


class Play:
    """An engine, fed by hand on a clock of its own."""

    def __init__(self, bundle, **settings):
        opened = open_bundle(bundle)
        self.settings = parse({**FED, **settings}, opened.card)
        self.model = open_model(opened, "onnxruntime")
        self.windows = Windows(opened.card, ["image", "audio"])
        decider = Decider(opened.card, self.settings.decisions)
        self.engine = Engine(self.model, self.windows, decider, self.settings, opened.card)
        self.now = 0.0

    def run(self, seconds, *, image=230, audio=0.0, fps=15, chunk_s=0.064, keep=True):
        """Decisions while pictures and sound arrive for so long; None = that input is silent."""
        found, end = [], self.now + seconds
        times = sorted(
            [("image", self.now + (number + 1) / fps) for number in range(round(seconds * fps))] * (image is not None)
            + [("audio", self.now + (number + 1) * chunk_s) for number in range(round(seconds / chunk_s))] * (audio is not None),
            key=lambda entry: entry[1],
        )
        for name, at in times:
            value = Picture(image) if name == "image" else np.full(round(chunk_s * RATE_HZ), audio, np.float32)
            self.windows.offer(Item(name, value, at), at)
            found += [decision for decision in [self.engine.step(at)] if decision and keep]
        while self.now < end:  # ticks go on where nothing arrives
            self.now = min(end, self.now + 0.05)
            if not times:
                found += [decision for decision in [self.engine.step(self.now)] if decision]
        return found


@pytest.fixture
def play(bundle):
    made = []

    def start(**settings):
        made.append(Play(settings.pop("of", bundle), **settings))
        return made[-1]

    yield start
    for one in made:
        one.model.close()


def test_each_branch_runs_at_its_own_rate_and_the_rest_once_a_tick(play):
    one = play(decide_hz=10, inputs={"image": {"rate_hz": 2}, "audio": {"rate_hz": 5}})
    decisions = one.run(10.0)
    assert one.engine.ran["image"] == pytest.approx(20, abs=2)
    assert one.engine.ran["audio"] == pytest.approx(47, abs=3)
    assert len(decisions) <= 10 * 10 + 1


def test_a_rate_above_the_cameras_runs_every_picture_once(play):
    one = play(decide_hz=60)
    one.run(4.0, audio=None)
    assert one.engine.ran["image"] == 60


def test_a_silent_input_is_replaced_and_comes_back(play):
    one = play(inputs={"audio": {"stale_s": 1.0}})
    first, without, again = one.run(3.0), one.run(4.0, audio=None), one.run(3.0)
    assert (first[-1].voted, first[-1].stood_in) == (("image", "audio"), ())
    assert (without[-1].voted, without[-1].stood_in) == (("image",), ("audio",))
    assert again[-1].voted == ("image", "audio")


def test_it_is_told_when_an_input_becomes_too_old_even_if_nothing_arrives(play):
    one = play(inputs={"audio": {"stale_s": 1.0}, "image": {"stale_s": 30.0}})
    one.run(3.0)
    silent = one.run(2.0, image=None, audio=None)
    assert [decision.voted for decision in silent][-1] == ("image",)
    assert len(silent) <= 2, "the last pictures, then the change; no decision without a reason"


def test_with_nothing_there_it_waits_and_says_for_what(play, whole_bundle):
    one = play(of=whole_bundle)
    assert one.run(2.0, audio=None) == []
    assert one.engine.why_waiting == "nothing from audio"


def test_old_embeddings_never_outlive_their_bound(play):
    one = play(inputs={"image": {"stale_s": 2.0}, "audio": {"stale_s": 2.0}})
    for decision in [*one.run(3.0), *one.run(5.0, image=None), *one.run(2.0)]:
        assert all(age <= 2.0 for age in decision.ages_s.values())


def test_a_value_in_the_settings_runs_its_branch_once(shared, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from edgemm.box.bundle.parts import Parts, SplitFiles
    from edgemm.box.serving.model import InParts
    from edgemm.contracts import card_file as cards
    from edgemm.contracts import plugins
    from edgemm.contracts.target import Target
    from tests.onnx_models import model as onnx_model

    def save(name, nodes, inputs, outputs, constants=()):
        faces = [{key: (kind, shape) for key, kind, shape in side} for side in (inputs, outputs)]
        onnx.save(onnx_model(nodes, *faces, dict(constants)), tmp_path / name)
        return tmp_path / name

    f = TensorProto.FLOAT
    left = save("a.onnx", [helper.make_node("Neg", ["a"], ["left"])], [("a", f, ["batch", 2])], [("left", f, ["batch", 2])])
    right = save("b.onnx", [helper.make_node("Abs", ["b"], ["right"])], [("b", f, ["batch", 2])], [("right", f, ["batch", 2])])
    rest = save(
        "rest.onnx",
        [helper.make_node("Add", ["left", "right"], ["sum"])],
        [("left", f, ["batch", 2]), ("right", f, ["batch", 2])],
        [("sum", f, ["batch", 2])],
    )
    sensor = {"modality": "sensor", "shape": [2]}
    card = cards.parse({"model": "m.onnx", "inputs": {"a": sensor, "b": sensor}, "outputs": {"sum": {"task": "classification"}}})
    files = SplitFiles({"a": left, "b": right}, rest, {"a": ["left"], "b": ["right"]})
    settings = parse({"inputs": {"b": {"value": [-3.0, -4.0]}}, "sources": [{"stream": {"inputs": "a", "url": "x"}}]}, card)
    with Parts(files, plugins.load(Target, "onnxruntime").open) as parts:
        windows = Windows(card, ["a"])
        engine = Engine(InParts(card, parts, {}, "onnxruntime"), windows, Decider(card, {}), settings, card)
        for second in range(5):
            windows.offer(Item("a", np.ones(2, np.float32), float(second)), float(second))
            decision = engine.step(float(second))
    assert engine.ran == {"a": 5, "b": 1}
    assert decision.voted == ("a", "b")


def test_a_text_that_cannot_be_read_is_counted_and_left_out(play):
    class Broken(Picture):
        def fitted(self, modality):
            from edgemm.errors import DataError

            raise DataError("the picture is torn.")

    one = play()
    one.windows.offer(Item("image", Broken(0), 1.0), 1.0)
    assert one.engine.step(1.0) is None
    assert (one.engine.refused, one.engine.refusal) == (1, "image: the picture is torn.")


def test_the_controls_take_effect_and_refuse_nonsense(play):
    one = play()
    one.run(2.0)
    assert one.engine.control("modalities", "image")
    assert one.run(1.0)[-1].voted == ("image",)
    assert one.engine.control("enabled", "OFF")
    assert one.run(1.0) == []
    assert one.engine.control("threshold", "0.9")
    assert not any(
        one.engine.control(*words) for words in [("modalities", "smell"), ("threshold", "high"), ("enabled", "maybe"), ("x", "y")]
    )


def test_each_input_alone_is_asked_with_the_others_replaced(play):
    one = play()
    one.run(2.0, image=230, audio=0.5)
    alone = one.engine.alone()
    assert alone["image"]["event"].scores["visitor"] > 0.8
    assert alone["audio"]["event"].scores["intruder"] > 0.8


def test_memory_stays_flat_over_two_hours_of_pictures_and_sound(play):
    from edgemm.box.serving.health import rss_mib

    one = play(decide_hz=1)
    one.run(300.0, fps=2, chunk_s=0.25, keep=False)
    before = rss_mib()
    for _ in range(12):
        one.run(600.0, fps=2, chunk_s=0.25, keep=False)
    assert rss_mib() < before * 1.02 + 1


def test_the_first_decision_waits_a_little_for_sound_that_is_still_coming(play):
    one = play()
    assert one.run(1.0)[0].voted == ("image", "audio")


def test_the_first_decision_does_not_wait_for_ever(play):
    one = play()
    decisions = one.run(5.0, audio=None)
    assert decisions[0].stood_in == ("audio",)
    assert decisions[0].at_s > 3.0


def test_nothing_computed_before_a_gap_votes_after_it(play, bundle):
    one = play()
    one.windows = one.engine.windows = Windows(open_bundle(bundle).card, ["image", "audio"], [("image", "audio")])
    one.run(3.0, audio=0.6)
    one.windows.offer(Item("image", Picture(20), one.now + 0.3, discontinuity=True), one.now + 0.3)
    decision = one.engine.step(one.now + 0.3)
    assert (decision.voted, decision.stood_in) == (("image",), ("audio",))


def test_branches_at_their_own_rates_agree_with_the_whole_at_the_cameras(play, whole_bundle):
    scenes = [(20, 0.0), (230, 0.0), (230, 0.6), (20, 0.0)] * 3

    def show(one):
        return [
            (round(d.at_s, 1), max(d.readings["event"].scores, key=d.readings["event"].scores.get))
            for image, audio in scenes
            for d in one.run(4.0, image=image, audio=audio)
        ]

    all_of_them, rarely = show(play(of=whole_bundle, decide_hz=15)), show(play(decide_hz=5))
    often = dict(all_of_them)
    same = [often[min(often, key=lambda time, at=at: abs(time - at))] == label for at, label in rarely]
    assert np.mean(same) >= 0.99
    assert len(rarely) < len(all_of_them) / 2


def test_played_fast_what_is_there_at_one_time_is_answered_together(bundle):
    class Scenes:
        inputs, live, notes = ("image", "audio"), False, []

        def items(self, wants):
            for at_s, shade in ((0.5, DARK), (1.0, BRIGHT)):
                yield Item("audio", np.zeros(RATE_HZ // 2, np.float32), at_s, discontinuity=at_s > 0.5)
                yield Item("image", np.full((32, 32, 3), shade, np.uint8), at_s)

    opened = open_bundle(bundle)
    runner = Runner(opened, parse({"sources": [{"folder": {"inputs": ["image", "audio"], "path": "."}}]}, opened.card), fast=True)
    runner.sources = [Scenes()]
    done = runner.run(threading.Event())
    assert done.ran == {"image": 2, "audio": 2}
    assert done.decisions == 2
