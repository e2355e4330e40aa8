"""One output's boxes to tracks, incidents and news: at most one message a second, nothing twice, and every end told."""

import itertools
from collections import Counter

import numpy as np
import pytest

from edgemm.box.serving.tracking.following import Follower
from edgemm.box.serving.tracking.settings import LineSettings, TrackSettings, ZoneSettings
from edgemm.contracts.decision import Box
from tests.box.serving.tracking.moving import SIZE, Thing, line, seen

DOOR = ZoneSettings([[0.4, 0.0], [0.6, 0.0], [0.6, 1.0], [0.4, 1.0]], loitering_s=3.0)
GATE = LineSettings([[0.5, 0.0], [0.5, 1.0]])


def follower(*, tracks=None, zones=None, lines=None, thresholds=None):
    one = Follower("objects", "image", tracks or TrackSettings(), lost_s=1.0, zones=zones, lines=lines)
    one.fitted = thresholds or {}
    return one


def play(one, things, *, seconds, rate_hz=10.0, begun_s=float("-inf"), start=0, **noise):
    """The scenes, one a picture."""
    rng, scenes = np.random.default_rng(start), []
    for number in range(start, start + int(seconds * rate_hz)):
        boxes = [box for box, _ in seen(things(number / rate_hz) if callable(things) else things, number / rate_hz, rng, **noise)]
        scenes.append(one.update(boxes, SIZE, number / rate_hz, 1000 + number / rate_hz, begun_s=begun_s))
    return scenes


def did(scenes):
    return [(one.kind, one.place, one.side) for scene in scenes for one in scene.incidents]


def told(scenes):
    return [news for scene in scenes for news in scene.news]


def walker(label="person", **more):
    """Goes through the whole picture in 12.8 seconds."""
    return [Thing(label, line(0, 400, across=100), **more)]


def test_who_walks_through_a_zone_and_over_a_line_enters_crosses_and_leaves():
    scenes = play(follower(zones={"door": DOOR}, lines={"gate": GATE}), walker(), seconds=12)
    assert did(scenes) == [("entered", "door", None), ("crossed", "gate", "left"), ("left", "door", None)]
    (entered, *_) = [one.track for scene in scenes for one in scene.incidents]
    assert (entered.zones, entered.entered, entered.label) == (("door",), ("door",), "person")
    assert entered.relative[0] * SIZE[0] == pytest.approx(entered.box.x0)


def test_who_stands_in_a_zone_loiters_once_and_leaves_it_when_lost():
    one = follower(zones={"door": DOOR})
    scenes = play(one, lambda t: [Thing("person", line(640, 400))] if t < 6 else [], seconds=8)
    assert did(scenes) == [("entered", "door", None), ("loitering", "door", None), ("left", "door", None)]
    assert [news.kind for news in told(scenes)][-1] == "end"
    assert scenes[-1].tracks == ()


def test_without_zones_and_lines_it_is_told_that_something_appeared():
    assert did(play(follower(), walker(), seconds=5)) == [("appeared", None, None)]


def test_what_a_track_did_before_it_was_born_is_told_when_it_is():
    quick = ZoneSettings(DOOR.points, inertia=1)
    scenes = play(follower(zones={"door": quick}), [Thing("person", line(640, 400))], seconds=1)
    assert [[one.kind for one in scene.incidents] for scene in scenes[:3]] == [[], [], ["entered"]]


def test_a_false_alarm_in_a_zone_is_nothing():
    scenes = play(follower(zones={"door": DOOR}), lambda t: [Thing("person", line(640, 400))] if t < 0.15 else [], seconds=2)
    assert did(scenes) == []
    assert told(scenes) == []


def test_of_a_quiet_label_tracks_are_counted_and_nothing_is_an_event():
    scenes = play(follower(tracks=TrackSettings(quiet=["cat"]), zones={"door": DOOR}), walker("cat"), seconds=6)
    assert did(scenes) == []
    assert len(scenes[-1].tracks) == 1


def test_news_come_once_a_second_at_most_and_only_of_what_is_new():
    def things(t):  # its score climbs all the time
        return [Thing("person", line(200, 400), score=0.5 + 0.04 * t), Thing("dog", line(900, 400), 100, 60)]

    news = told(play(follower(), things, seconds=11, rate_hz=15))
    person, dog = ([one for one in news if one.after.label == label] for label in ("person", "dog"))
    assert [one.kind for one in dog] == ["new", "update"], "once since it stands"
    assert dog[-1].after.is_standing
    times = [one.after.seen_s for one in person]
    assert len(person) < 11
    assert min(np.diff(times)) >= 1.0 - 1e-9
    assert all(one.before == before.after for before, one in itertools.pairwise(person))


def test_a_zone_that_was_entered_within_a_second_of_other_news_is_told_after_it():
    scenes = play(follower(zones={"door": DOOR}), walker(), seconds=12, rate_hz=15)
    news = told(scenes)
    zones = [one.after.zones for one in news]
    assert zones == [(), ("door",), ()]
    assert [one.kind for one in news] == ["new", "update", "update"]


def test_a_gap_ends_every_track_and_begins_others():
    one = follower(zones={"door": DOOR})
    before = play(one, [Thing("person", line(640, 400))], seconds=2)
    after = play(one, [Thing("person", line(640, 400))], seconds=2, start=20, begun_s=1.95)
    assert [news.kind for news in told(after)] == ["end", "new"]
    assert did(after) == [("left", "door", None), ("entered", "door", None)]
    assert before[-1].tracks[0].id != after[-1].tracks[0].id


def test_the_same_picture_again_is_nothing_new():
    one, box = follower(), Box("person", 0.9, 10, 10, 90, 170)
    for _ in range(5):
        scene = one.update([box], SIZE, 1.0, 1001.0, begun_s=0.0)
    assert (scene.tracks, scene.incidents, scene.news) == ((), (), ())


def test_an_end_is_told_with_the_moment_it_was_seen_last():
    one = follower()
    play(one, [Thing("person", line(640, 400))], seconds=2)
    (news,) = one.end().news
    assert (news.kind, news.after.seen_wall_s) == ("end", pytest.approx(1001.9))
    assert one.end().news == ()


@pytest.mark.parametrize(
    ("settings", "bundled", "score", "begins"),
    [
        ({}, {}, 0.5, True),
        ({}, {}, 0.45, False),
        ({}, {"person": 0.4}, 0.45, True),
        ({"threshold": 0.6}, {"person": 0.4}, 0.55, False),
        ({"threshold": 0.6, "thresholds": {"person": 0.3}}, {}, 0.35, True),
    ],
)
def test_whose_threshold_counts(settings, bundled, score, begins):
    one = follower(tracks=TrackSettings(**settings), thresholds=bundled)
    scenes = play(one, [Thing("person", line(640, 400), score=score)], seconds=1)
    assert bool(scenes[-1].tracks) is begins


def test_a_threshold_set_while_running_wins():
    one, box = follower(), Box("person", 0.3, 10, 10, 90, 170)
    for number in range(4):
        scene = one.update([box], SIZE, number * 0.2, 1000.0, begun_s=-1.0, threshold=0.25)
    assert len(scene.tracks) == 1


@pytest.mark.parametrize("number", [5, 20, 50])
def test_many_are_followed_through_misses_and_false_alarms(number):
    things = [Thing("person", line(60 + 120 * (n % 10), 60 + 140 * (n // 10), across=6), 50, 100) for n in range(number)]
    scenes = play(follower(zones={"door": DOOR}, lines={"gate": GATE}), things, seconds=6, rate_hz=15, jitter=1.0, missed=0.1)
    kinds = Counter(news.kind for news in told(scenes))
    assert kinds["new"] == number
    assert kinds["end"] == 0
    assert len({track.id for scene in scenes for track in scene.tracks}) == number
