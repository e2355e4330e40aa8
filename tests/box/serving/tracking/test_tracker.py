"""Who is who: crossings, misses, false alarms, unsure boxes, gaps, labels by vote."""

import numpy as np
import pytest

from edgemm.box.serving.tracking.tracker import Tracker, pairs, unique_id
from edgemm.contracts.decision import Box
from tests.box.serving.tracking.moving import Thing, line, seen

SURE = 0.5


def tracker(**more):
    return Tracker(**{"hits": 3, "lost_s": 1.0, **more})


def show(one, boxes, at_s):
    return one.update([b for b in boxes if b.score >= SURE], [b for b in boxes if 0.1 <= b.score < SURE], at_s, 1000.0 + at_s)


def follow(things, *, seconds, rate_hz=15.0, seed=0, one=None, **noise):
    """Thing -> ids of the born tracks that had its boxes, in order; under None those of false alarms."""
    one, rng, ids = one or tracker(), np.random.default_rng(seed), {}
    for number in range(int(seconds * rate_hz)):
        boxes = seen(things, number / rate_hz, rng, **noise)
        show(one, [box for box, _ in boxes], number / rate_hz)
        owners = {id(box): thing for box, thing in boxes}
        for followed in one.followed:
            if one.is_born(followed) and followed.seen_s == number / rate_hz:
                known = ids.setdefault(owners[id(followed.box)], [])
                known += [followed.id] if not known or known[-1] != followed.id else []
    return ids


@pytest.mark.parametrize("rate_hz", [5.0, 15.0])
@pytest.mark.parametrize("seed", range(5))
def test_two_that_cross_stay_who_they_are(rate_hz, seed):
    things = [Thing("person", line(200, 300, across=120)), Thing("person", line(1000, 330, across=-120))]
    ids = follow(things, seconds=6.5, rate_hz=rate_hz, seed=seed, jitter=3.0)
    assert [len(ids[0]), len(ids[1])] == [1, 1]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("rate_hz", [5.0, 15.0])
@pytest.mark.parametrize("seed", range(5))
def test_one_that_was_hidden_behind_another_comes_out_as_who_they_were(rate_hz, seed):
    things = [Thing("person", line(200, 300, across=120)), Thing("person", line(1000, 300, across=-120))]
    one, rng, owners = tracker(), np.random.default_rng(seed), {0: [], 1: []}
    for number in range(int(6.5 * rate_hz)):
        t = number / rate_hz
        boxes = {thing: box for box, thing in seen(things, t, rng, jitter=3.0)}
        if abs(things[0].place(t)[0] - things[1].place(t)[0]) < 40:
            del boxes[0]
        show(one, list(boxes.values()), t)
        for followed in one.followed:
            if one.is_born(followed) and followed.seen_s == t:
                owners[next(thing for thing, box in boxes.items() if box is followed.box)].append(followed.id)
    assert owners[0][0] == owners[0][-1] != owners[1][0] == owners[1][-1]
    assert len({*owners[0], *owners[1]}) == 2


@pytest.mark.parametrize("seed", range(5))
def test_misses_and_false_alarms_make_no_track_and_end_none(seed):
    things = [Thing("person", line(150 + 220 * n, 200 + 60 * n, across=15 * (-1) ** n, down=8)) for n in range(5)]
    ids = follow(things, seconds=20, seed=seed, jitter=2.0, missed=0.2, false_alarms=0.5)
    assert {number: len(ids[number]) for number in range(5)} == dict.fromkeys(range(5), 1)
    assert None not in ids or set(ids[None]) <= {id for number in range(5) for id in ids[number]}


def test_a_track_is_born_with_its_third_box():
    one, born = tracker(), []
    for number in range(4):
        show(one, [Box("person", 0.9, 10, 10, 50, 90)], number * 0.2)
        born.append(one.is_born(one.followed[0]))
    assert born == [False, False, True, True]


def test_unsure_boxes_keep_a_track_and_begin_none():
    one = tracker()
    for number in range(3):
        show(one, [Box("person", 0.9, 10, 10, 50, 90)], number * 0.2)
    (followed,) = one.followed
    for number in range(3, 20):
        show(one, [Box("person", 0.2, 10, 10, 50, 90), Box("person", 0.3, 500, 10, 540, 90)], number * 0.2)
    assert one.followed == [followed]
    assert followed.hits == 20


def test_one_that_is_hidden_for_less_than_a_second_is_the_same_and_for_more_another():
    def ids(gap_s):
        one, seen_ids = tracker(), []
        for t in [*np.arange(0, 1, 0.2), *(0.8 + gap_s + np.arange(0, 1, 0.2))]:
            ended = show(one, [Box("person", 0.9, 100 + 50 * t, 10, 180 + 50 * t, 170)], float(t))
            seen_ids += [followed.id for followed in one.followed if one.is_born(followed)] + [followed.id for followed in ended]
        return set(seen_ids)

    assert len(ids(0.9)) == 1
    assert len(ids(1.1)) == 2


def test_the_moment_of_its_end_depends_on_seconds_and_not_on_pictures():
    for rate_hz in (4.0, 30.0):
        one, ended_s = tracker(), []
        for number in range(int(6 * rate_hz)):
            t = number / rate_hz
            if show(one, [Box("person", 0.9, 10, 10, 50, 90)] if t < 2 else [], t):
                ended_s.append(t)
        assert len(ended_s) == 1
        assert ended_s[0] == pytest.approx(3, abs=1.01 / rate_hz)


def test_the_label_is_what_its_boxes_say_by_their_scores():
    one = tracker()
    for number, (label, score) in enumerate([("dog", 0.6), ("cat", 0.9), ("dog", 0.6), ("cat", 0.9), ("cat", 0.2), ("dog", 0.5)]):
        show(one, [Box(label, score, 10, 10, 90, 90)], number * 0.2)
    (followed,) = one.followed
    assert (followed.label, followed.hits) == ("cat", 6)


def test_a_parcel_does_not_take_over_its_bearers_track():
    one = tracker()
    for number in range(5):
        show(one, [Box("person", 0.9, 100, 100, 180, 260)], number * 0.2)
    (bearer,) = one.followed
    for number in range(5, 9):  # the person is missed twice
        boxes = [Box("parcel", 0.9, 110, 150, 170, 240)] + ([Box("person", 0.9, 100, 100, 180, 260)] if number > 6 else [])
        show(one, boxes, number * 0.2)
    assert sorted((followed.label, followed.hits) for followed in one.followed) == [("parcel", 4), ("person", 7)]
    assert bearer in one.followed


def test_after_a_gap_nobody_is_who_they_were():
    one = tracker()
    for number in range(3):
        show(one, [Box("person", 0.9, 10, 10, 50, 90)], number * 0.2)
    before = one.followed[0]
    assert one.end() == [before]
    show(one, [Box("person", 0.9, 10, 10, 50, 90)], 0.8)
    assert one.followed[0].id != before.id
    assert not one.is_born(one.followed[0])


def test_who_stands_still_is_told_from_who_walks():
    one = tracker()
    for number in range(60):
        t = number / 5
        show(one, [Box("person", 0.9, 10, 10, 50, 90), Box("person", 0.9, 300 + 40 * t, 10, 340 + 40 * t, 90)], t)
    stands, walks = one.followed
    assert (stands.still_since_s, stands.moves) == (0.0, 0)
    assert walks.still_since_s > 11
    assert walks.moves > 10


def test_pairs_are_matched_greedily_and_each_once():
    likeness = np.array([[0.9, 0.8, 0.0], [0.85, 0.1, 0.0], [0.0, 0.0, 0.1]])
    assert pairs(likeness, 0.2) == [(0, 0)]
    assert pairs(likeness, 0.1) == [(0, 0), (1, 1), (2, 2)]


def test_ids_begin_with_the_start_and_are_never_alike():
    ids = {unique_id(1700000000.25) for _ in range(1000)}
    assert len(ids) == 1000
    assert all(id.startswith("1700000000.250-") for id in ids)


@pytest.mark.parametrize("number", [5, 20, 50])
def test_so_many_are_followed_at_once(number):
    things = [Thing("person", line(60 + 120 * (n % 10), 60 + 140 * (n // 10), across=6), 50, 100) for n in range(number)]
    ids = follow(things, seconds=3, jitter=1.0, missed=0.1)
    assert sorted(map(len, ids.values())) == [1] * number
