"""A stream whose own clock jumps, back or ahead by an hour: a gap, after which all goes on at once."""

import threading
import time

import av
import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.source_threads import Feeder, whole
from edgemm.box.serving.windows import Windows
from edgemm.contracts.card import Card, Input
from edgemm.contracts.modality import of
from edgemm.contracts.source import Item
from tests.box.serving.conftest import BRIGHT, RATE_HZ, write_clip

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [-HOUR_S, HOUR_S], ids=["back", "ahead"])
PIECE_S, COUNT = 0.1, 30
CARD = Card(inputs={"audio": Input("audio", "audio", {"rate_hz": RATE_HZ, "seconds": 0.5})}, outputs={}, model="m.onnx")
WANTS = {"audio": of(CARD.inputs["audio"])}


class Jumping:
    """Pieces of sound whose times jump in the middle; it says nothing of that itself."""

    inputs, notes, steady = ("audio",), [], True

    def __init__(self, jump_s, *, live):
        self.jump_s, self.live = jump_s, live

    def items(self, wants):
        for number in range(COUNT):
            at_s = (number + 1) * PIECE_S + (self.jump_s if number >= COUNT // 2 else 0.0)
            yield Item("audio", np.full(round(PIECE_S * RATE_HZ), number, np.float32), at_s)

    def close(self):
        pass

    def describe(self):
        return "jumping"


@JUMPS
def test_a_live_clock_that_is_set_leaves_a_gap_and_no_window_reaches_over_it(jump_s):
    clock, windows, seen = [1000.0], Windows(CARD, ["audio"]), []
    source = Jumping(jump_s, live=True)
    feeder = Feeder(source, WANTS, windows.offer, now=lambda: clock[0])
    for number, item in enumerate(source.items(WANTS)):
        clock[0] += PIECE_S
        feeder._deliver(item, 0.0, number == 0)
        assert windows.newest_s("audio") == pytest.approx(clock[0]), "the box's clock goes on"
        seen.append(windows.take("audio", clock[0]))
    assert windows.counts()["audio"]["gaps"] == 1
    full = [sample is not None for sample in seen]
    assert full == [False] * 4 + [True] * 11 + [False] * 4 + [True] * 11
    assert seen[19].array.min() == COUNT // 2


@JUMPS
def test_a_recording_whose_clock_was_set_is_played_on_without_a_wait(jump_s):
    windows, source = Windows(CARD, ["audio"]), Jumping(jump_s, live=False)
    feeder = Feeder(source, WANTS, windows.offer)
    feeder.start()
    feeder.join(10)
    assert feeder.state == "ended"
    assert windows.counts()["audio"]["gaps"] == 1
    assert windows.take("audio", time.monotonic()).array.min() == COUNT - 5


def test_recorded_times_start_at_0_and_do_not_run_back():
    class Late(Jumping):
        def items(self, wants):
            for item in super().items(wants):
                yield Item(item.input, item.value, HOUR_S + item.time_s)

    times = [item.time_s for item in whole(Late(-HOUR_S, live=False), WANTS)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, pytest.approx((COUNT - 2) * PIECE_S, abs=0.2))
    ahead = [item.time_s for item in whole(Late(HOUR_S, live=False), WANTS)]
    assert ahead[-1] > HOUR_S, "played fast, a recording keeps its own dates"


def test_a_camera_that_stalls_and_then_sends_what_it_kept_has_not_jumped():
    clock, windows = [1000.0], Windows(CARD, ["audio"])
    feeder = Feeder(Jumping(0.0, live=True), WANTS, windows.offer, now=lambda: clock[0])
    for number, item in enumerate(feeder.source.items(WANTS)):
        clock[0] += 8.0 if number == 10 else 0.0 if 10 < number < 20 else PIECE_S
        feeder._deliver(item, 0.0, number == 0)
    assert windows.counts()["audio"]["gaps"] == 0


def transport_stream(path, clip, begin_s):
    """A clip as cameras keep it, its clock at ``begin_s`` when it begins."""
    with av.open(str(clip)) as file, av.open(str(path), "w", format="mpegts", options={"output_ts_offset": str(begin_s)}) as out:
        copies = [out.add_stream_from_template(stream) for stream in file.streams]
        for packet in file.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("begins", [(0.0, HOUR_S), (HOUR_S, 0.0)], ids=["ahead", "back"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "at its pace"])
def test_a_file_whose_clock_was_set_is_decided_upon_to_its_end(bundle, tmp_path, begins, fast):
    clip = write_clip(tmp_path / "clip.mp4", [(BRIGHT, 0)])
    path = tmp_path / "kept.ts"
    path.write_bytes(b"".join(transport_stream(tmp_path / "part.ts", clip, begin_s) for begin_s in begins))
    opened = open_bundle(bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(path)}}
    runner = Runner(opened, parse({"decide_hz": 5, "sources": [source]}, opened.card), fast=fast)
    voted = []
    runner.on_decision.append(lambda decision: voted.append(decision.voted))
    stop = threading.Event()
    threading.Timer(30, stop.set).start()
    runner.run(stop)
    assert not stop.is_set(), "nobody waits an hour"
    assert 1 <= runner.windows.counts()["audio"]["gaps"] <= 2, "one of each track, which is a hole in both"
    assert voted.count(("image", "audio")) > 12, "the second two seconds too"
