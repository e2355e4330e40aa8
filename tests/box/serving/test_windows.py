"""Windows: the newest wins, nothing grows, no window reaches over a gap."""

import numpy as np
import pytest

from edgemm.box.serving.stream_clock import Timeline
from edgemm.box.serving.windows import PICTURES_KEPT, Windows
from edgemm.contracts import card_file as cards
from edgemm.contracts.source import Item
from edgemm.errors import RunError

CARD = cards.parse(
    {
        "model": "m.onnx",
        "inputs": {
            "image": {"modality": "image", "height": 2, "width": 2},
            "audio": {"modality": "audio", "rate_hz": 100, "seconds": 1.0},
            "imu": {"modality": "sensor", "shape": [3, 2]},
            "clips": {"modality": "image", "height": 2, "width": 2, "steps": 3},
        },
        "outputs": {"event": {"task": "classification"}},
    }
)


@pytest.fixture
def windows():
    return Windows(CARD, list(CARD.inputs))


def picture(value):
    class Plain:
        def fitted(self, modality):
            return np.full((2, 2, 3), value, np.uint8)

    return Plain()


def sound(windows, samples, end_s, **more):
    windows.offer(Item("audio", np.asarray(samples, np.float32), end_s, **more), end_s)


def test_the_newest_picture_wins_and_few_are_kept(windows):
    for number in range(100):
        windows.offer(Item("image", picture(number), number / 10), number / 10)
    sample = windows.take("image", 100.0)
    assert sample.array[0, 0, 0, 0] == 99
    assert windows.counts()["image"] == {"taken": 1, "passed_over": 100 - PICTURES_KEPT, "gaps": 0}


def test_a_picture_is_taken_from_no_later_than_the_other_inputs_reach(windows):
    for number in range(5):
        windows.offer(Item("image", picture(number), float(number)), float(number))
    sound(windows, np.ones(100), 2.0)
    until = windows.horizon_s(dict.fromkeys(CARD.inputs, 10.0), now=4.0)
    assert windows.take("image", until).time_s == 2.0


def test_an_input_that_is_stale_holds_nobody_back(windows):
    windows.offer(Item("image", picture(1), 50.0), 50.0)
    sound(windows, np.ones(100), 2.0)
    assert windows.horizon_s(dict.fromkeys(CARD.inputs, 3.0), now=50.0) >= 50.0


def test_sound_is_there_once_the_window_is_full_and_slides(windows):
    sound(windows, np.arange(60), 0.6)
    assert windows.take("audio", 9.0) is None
    sound(windows, np.arange(60, 110), 1.1)
    np.testing.assert_array_equal(windows.take("audio", 9.0).array[0], np.arange(10, 110))


def test_a_piece_longer_than_the_window_leaves_its_end(windows):
    sound(windows, np.arange(250), 2.5)
    np.testing.assert_array_equal(windows.take("audio", 9.0).array[0], np.arange(150, 250))


@pytest.mark.parametrize(("end_s", "discontinuity"), [(1.1, True), (1.9, False)])
def test_no_window_reaches_over_a_gap(windows, end_s, discontinuity):
    sound(windows, np.ones(100), 1.0)
    sound(windows, np.zeros(10), end_s, discontinuity=discontinuity)
    assert windows.take("audio", 9.0) is None
    assert windows.counts()["audio"]["gaps"] == 1


def test_a_taken_sample_does_not_change_when_more_arrives(windows):
    sound(windows, np.ones(100), 1.0)
    taken = windows.take("audio", 9.0)
    sound(windows, np.zeros(50), 1.5)
    assert taken.array.min() == 1


def test_measurements_may_come_moment_by_moment_or_as_a_window(windows):
    for moment in range(4):
        windows.offer(Item("imu", np.full(2, moment, np.float32), float(moment)), float(moment))
    np.testing.assert_array_equal(windows.take("imu", 9.0).array[0, :, 0], [1, 2, 3])
    windows.offer(Item("imu", np.full((3, 2), 7, np.float32), 9.0), 9.0)
    assert (windows.take("imu", 9.0).array == 7).all()


def test_a_measurement_of_another_shape_is_refused(windows):
    with pytest.raises(RunError, match=r"a measurement for 'imu' has shape \(5,\)") as caught:
        windows.offer(Item("imu", np.zeros(5, np.float32), 0.0), 0.0)
    assert "send one moment (2,) or a whole window (3, 2)" in str(caught.value)


def test_an_input_of_several_steps_gets_the_last_samples_in_order(windows):
    taken = []
    for number in range(4):
        windows.offer(Item("clips", picture(number), float(number)), float(number))
        taken.append(windows.take("clips", 9.0))
    assert taken[:2] == [None, None]
    assert taken[3].array.shape == (1, 3, 2, 2, 3)
    np.testing.assert_array_equal(taken[3].array[0, :, 0, 0, 0], [1, 2, 3])


def test_the_level_of_full_scale_is_zero(windows):
    assert windows.level_dbfs() is None
    sound(windows, np.ones(100), 1.0)
    assert windows.level_dbfs() == pytest.approx(0.0, abs=1e-6)


def test_a_burst_of_old_packets_at_the_start_is_not_taken_for_new():
    line = Timeline()
    burst = [line.place(stream_s, 100.0) for stream_s in (0.0, 0.5, 1.0)]
    assert burst[-1] == 100.0
    assert line.place(1.1, 100.1) == pytest.approx(100.1)
    assert line.place(1.2, 100.9) == pytest.approx(100.2), "a late packet is as old as its time says"


def test_drift_between_the_clocks_is_told_in_parts_per_million():
    line = Timeline()
    for second in range(100):
        line.place(second * (1 - 200e-6), 1000.0 + second)
    assert line.drift_ppm() == pytest.approx(200, rel=0.05)


def test_times_follow_a_camera_whose_clock_runs_slow():
    line = Timeline()
    placed = [line.place(second * (1 - 1e-3), 1000.0 + second) for second in range(600)]
    assert 1000.0 + 599 - placed[-1] < 0.03, "after ten minutes a thousandth is 0.6 s; two buckets of it are 0.02 s"


def test_a_hole_in_one_input_of_a_source_is_a_hole_in_all_of_them():
    windows = Windows(CARD, list(CARD.inputs), [("image", "audio")])
    sound(windows, np.ones(100), 1.0)
    windows.offer(Item("image", picture(1), 5.0, discontinuity=True), 5.0)
    assert windows.take("audio", 9.0) is None
    assert windows.begun_s("audio") == 5.0
    assert windows.begun_s("imu") == float("-inf")


HEARD = cards.parse(
    {
        "model": "m.onnx",
        "inputs": {
            "audio": {
                "modality": "audio",
                "rate_hz": 100,
                "seconds": 1.0,
                "features": {"log_mel": {"mels": 2, "window_ms": 200, "hop_ms": 70}},
            },
            "talk": {"modality": "audio", "rate_hz": 100, "seconds": 1.0, "steps": 2},
        },
        "outputs": {"event": {"task": "classification"}},
    }
)


def test_windows_of_a_sound_with_a_front_end_begin_a_whole_number_of_hops_apart():
    windows, heard = Windows(HEARD, ["audio"]), np.arange(400)
    sound(windows, heard[:110], 1.1)
    first = windows.take("audio", 9.0)
    sound(windows, heard[110:143], 1.43)
    second = windows.take("audio", 9.0)
    assert (first.position, second.position) == (7, 42)
    assert (first.time_s, second.time_s) == (pytest.approx(1.07), pytest.approx(1.42)), "when the window ends, not the newest sample"
    for sample in (first, second):
        np.testing.assert_array_equal(sample.array[0], heard[sample.position : sample.position + 100])
    sound(windows, heard[143:145], 1.45)
    assert windows.newest_s("audio") == pytest.approx(1.42), "two samples more are no new window"


@pytest.mark.parametrize(("end_s", "discontinuity"), [(2.0, True), (7.0, False), (-40.0, True)])
def test_what_comes_after_a_gap_or_a_jump_of_the_clock_stands_at_another_place(end_s, discontinuity):
    windows = Windows(HEARD, ["audio"])
    sound(windows, np.ones(110), 1.1)
    before = windows.take("audio", 9.0)
    sound(windows, np.zeros(105), end_s, discontinuity=discontinuity)
    after = windows.take("audio", 9.0)
    assert after.position - before.position >= 100
    assert after.position % 7 == 0
    assert not after.array.any()


def test_steps_know_their_place_and_forget_what_was_before_a_gap_of_their_sound():
    windows = Windows(HEARD, ["talk"])
    places = []
    for end_s in (1.0, 1.2, 1.4, 9.0, 9.2):
        windows.offer(Item("talk", np.full(20 if end_s in (1.2, 1.4, 9.2) else 100, end_s, np.float32), end_s), end_s)
        taken = windows.take("talk", 99.0)
        places.append(taken and taken.position)
    assert places == [None, 0, 1, None, 5], "two steps on, and two that are missing"
    assert taken.array.min() > 2, "nothing of before the gap"
    assert windows.begun_s("talk") == pytest.approx(8.0)
