"""Values far from all others: found where a sensor failed, not where a tail was measured."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.data.outliers import clip, outlying

CARD = cards.parse(
    {
        "factory": "m:f",
        "inputs": {"imu": {"modality": "sensor", "shape": [6]}, "ids": {"modality": "tensor", "dtype": "int64", "shape": ["batch", 2]}},
        "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
    }
)


def rows(count: int = 200) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, (count, 6)).astype(np.float32)


@pytest.mark.parametrize("sentinel", [9999, -999, 65535, 1e6])
@pytest.mark.parametrize("every", [100, 20, 6])
def test_a_sentinel_in_some_rows_is_found_with_its_channel_and_values(sentinel, every):
    values = rows()
    values[::every, 1] = sentinel
    (channel,) = outlying(CARD, [{"imu": values}])
    assert (channel.input, channel.channel, channel.outside, channel.gap) == ("imu", 1, (sentinel,), True)
    assert channel.count == len(values[::every])
    assert f"'imu', channel 1 of 0 to 5: {channel.count} of 200 values far out ({sentinel:.6g})" in str(channel)


@pytest.mark.parametrize("sentinel", [0, -1])
def test_a_sentinel_among_the_values_is_none(sentinel):
    values = rows()
    values[::20, 1] = sentinel
    assert outlying(CARD, [{"imu": values}]) == []


def test_a_tail_that_was_measured_has_no_gap():
    values = np.random.default_rng(1).lognormal(0, 1.5, (400, 6)).astype(np.float32)
    assert [channel for channel in outlying(CARD, [{"imu": values}]) if channel.gap] == []


def test_a_channel_that_mostly_stands_still_may_speak_up():
    values = rows()
    values[:, 3] = 0
    values[::50, 3] = 1
    assert outlying(CARD, [{"imu": values}]) == []


def test_ids_are_no_measurements():
    ids = np.ones((200, 2), np.int64)
    ids[3] = 9999
    assert outlying(CARD, [{"imu": rows(), "ids": ids}]) == []


def test_clipping_draws_what_is_far_out_to_the_others_and_leaves_the_rest_alone():
    values = rows()
    values[::20, 1] = 9999
    clipped = clip({"imu": values}, outlying(CARD, [{"imu": values}]))["imu"]
    assert clipped[:, 1].max() < 2
    assert values[0, 1] == 9999
    assert np.array_equal(np.delete(clipped, 1, axis=1), np.delete(values, 1, axis=1))
