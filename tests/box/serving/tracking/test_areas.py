"""Zones and lines: the middle of the lower edge, inertia, loitering, labels, sides."""

import numpy as np
import pytest

from edgemm.box.serving.tracking.areas import Areas, area, contains, crossing_edges
from edgemm.box.serving.tracking.settings import LineSettings, ZoneSettings

DOOR = [[0.1, 0.4], [0.4, 0.4], [0.4, 1.0], [0.1, 1.0]]
U = [[0.0, 0.0], [0.3, 0.0], [0.3, 0.7], [0.7, 0.7], [0.7, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def walk(areas, places, *, label="person", step_s=0.2):
    """What one track did: (number of the picture, kind, place, side)."""
    did = []
    for number, place in enumerate(places):
        steps = areas.look(["a"], [label], np.array([place]), number * step_s).get("a", [])
        did += [(number, step.kind, step.place, step.side) for step in steps]
    return did


def zone(**more):
    return Areas({"door": ZoneSettings(DOOR, **more)}, {})


def test_who_is_in_for_three_pictures_has_entered_and_who_is_out_for_three_has_left():
    inside, outside = (0.2, 0.6), (0.7, 0.6)
    assert walk(zone(), [outside, inside, inside, inside, outside, outside, outside]) == [
        (3, "entered", "door", None),
        (6, "left", "door", None),
    ]
    assert walk(zone(), [inside, inside, outside] * 5) == []
    assert walk(zone(inertia=1), [outside, inside, outside]) == [(1, "entered", "door", None), (2, "left", "door", None)]


def test_who_stays_loiters_once():
    did = walk(zone(loitering_s=2.0), [(0.2, 0.6)] * 30)
    assert did == [(2, "entered", "door", None), (10, "loitering", "door", None)]


def test_a_new_stay_counts_from_its_own_beginning():
    places = [(0.2, 0.6)] * 8 + [(0.7, 0.6)] * 3 + [(0.2, 0.6)] * 10
    kinds = [kind for _, kind, _, _ in walk(zone(loitering_s=2.0), places)]
    assert kinds == ["entered", "left", "entered"]


def test_a_zone_looks_for_its_labels_alone():
    assert walk(zone(labels=["dog"]), [(0.2, 0.6)] * 5) == []
    assert walk(zone(labels=["dog"]), [(0.2, 0.6)] * 5, label="dog") == [(2, "entered", "door", None)]


def test_a_box_cut_off_by_the_lower_edge_is_in_a_zone_that_reaches_there():
    assert walk(zone(inertia=1), [(0.2, 1.0)]) == [(0, "entered", "door", None)]


def test_who_ends_in_a_zone_leaves_it():
    areas = zone(inertia=1)
    walk(areas, [(0.2, 0.6)])
    assert areas.zones_of("a") == ("door",)
    assert [(step.kind, step.place) for step in areas.forget("a")] == [("left", "door")]
    assert areas.zones_of("a") == ()


LINE = LineSettings([[0.2, 0.5], [0.8, 0.5]], inertia=2)


def gate(**more):
    return Areas({}, {"gate": LineSettings(LINE.points, **{"inertia": 2, **more})})


def test_who_goes_down_over_a_line_to_the_right_goes_to_its_right():
    places = [(0.5, y) for y in (0.3, 0.4, 0.48, 0.55, 0.6)]
    assert walk(gate(), places) == [(4, "crossed", "gate", "right")]
    assert walk(gate(), places[::-1]) == [(3, "crossed", "gate", "left")]


def test_who_goes_around_the_end_of_a_line_crosses_nothing():
    assert walk(gate(), [(0.9, 0.3), (0.9, 0.6), (0.5, 0.6), (0.5, 0.6)]) == []
    assert walk(gate(), [(0.9, 0.6), (0.5, 0.6), (0.5, 0.4), (0.5, 0.4)]) == [(3, "crossed", "gate", "left")]


def test_who_stands_on_a_line_crosses_it_once_at_most():
    rng = np.random.default_rng(0)
    jitter = [(0.5, 0.5 + rng.normal(0, 0.004)) for _ in range(200)]
    assert len(walk(gate(inertia=3), [(0.5, 0.4)] * 3 + [(0.5, 0.499), (0.5, 0.501)] * 20)) == 0
    assert len(walk(gate(inertia=8), [(0.5, 0.4), *jitter, *[(0.5, 0.6)] * 9])) % 2 == 1


def test_standing_on_the_very_line_is_on_neither_side():
    assert walk(gate(), [(0.5, 0.4), (0.5, 0.5), (0.5, 0.5), (0.5, 0.4)]) == []
    assert walk(gate(), [(0.5, 0.4), (0.5, 0.5), (0.5, 0.6), (0.5, 0.6)]) == [(3, "crossed", "gate", "right")]


def test_contains_is_the_even_odd_rule():
    points = np.array([[0.15, 0.5], [0.5, 0.5], [0.85, 0.5], [0.5, 0.85], [0.5, 1.1]])
    assert contains(np.array(U), points).tolist() == [True, False, True, True, False]


def test_points_drawn_at_random_lie_in_a_triangle_as_often_as_its_area_says():
    points = np.random.default_rng(0).random((20000, 2))
    triangle = np.array([[0.1, 0.1], [0.9, 0.2], [0.3, 0.8]])
    assert contains(triangle, points).mean() == pytest.approx(area(triangle), abs=0.01)


def test_edges_that_cross_are_named():
    assert crossing_edges([[0, 0], [1, 1], [1, 0], [0, 1]]) == (1, 3)
    assert crossing_edges(U) is None
    assert crossing_edges(DOOR) is None
