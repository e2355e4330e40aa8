"""A model with points and a mask served whole: in the camera's picture, told by file, page and picture."""

import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving import drawing
from edgemm.box.serving.captions import Captions
from edgemm.box.serving.decisions import Decider
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import DecisionSettings, WebSettings
from edgemm.box.serving.web import Page
from edgemm.contracts.decision import Decision, Marks, Mask, Point, Pose, Reading
from edgemm.contracts.sink import decision_dict
from tests.box.serving import blobs
from tests.box.serving.conftest import Listener, cli, wait_for
from tests.box.serving.test_boxes import play
from tests.box.serving.test_web import get

pytestmark = pytest.mark.timeout(180)
SIZE = 640, 360
EDGES = 160, 90, 320, 270  # of what is red


@pytest.fixture(scope="session")
def marks_bundle(shared):
    return shared("marks-bundle", lambda folder: blobs.make_bundle(folder, marks=True)) / "bundle"


@pytest.fixture(scope="session")
def still_clip(shared):
    x0, y0, x1, y1 = EDGES
    things = [("red", x0, y0, x1 - x0, y1 - y0)]
    return shared("still-clip", lambda folder: blobs.write_clip(folder / "clip.mp4", lambda t: things, seconds=2, size=SIZE)) / "clip.mp4"


@pytest.fixture(scope="module")
def told(marks_bundle, still_clip):
    return play(marks_bundle, still_clip, decisions={"pose": {"debounce": 1}, "area": {"debounce": 1, "threshold": 0.1}})


def opened_picture(jpeg):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_points_are_in_pixels_of_the_cameras_picture(told):
    marks = told.decisions[-1].readings["pose"].marks
    (pose,) = marks.poses
    assert (marks.frame, marks.size, pose.label, pose.skeleton) == ("image", SIZE, "red", ((0, 1),))
    assert [point.name for point in pose.points] == blobs.POINTS
    edges = [place for point in pose.points for place in (point.x, point.y)]
    assert max(abs(edge - true) for edge, true in zip(edges, EDGES, strict=True)) <= SIZE[0] / blobs.MODEL[0]


def test_a_mask_covers_the_cameras_picture_and_its_shares_are_of_it(told):
    reading = told.decisions[-1].readings["area"]
    high, wide = reading.marks.mask.numbers.shape
    assert wide / high == pytest.approx(SIZE[0] / SIZE[1], rel=0.03), "without the bars of the model's picture"
    share = (EDGES[2] - EDGES[0]) * (EDGES[3] - EDGES[1]) / (SIZE[0] * SIZE[1])
    assert reading.scores["red"] == pytest.approx(share, abs=0.01)
    rows, columns = np.nonzero(reading.marks.mask.numbers == 1)
    shown = columns.min() / wide, rows.min() / high, (columns.max() + 1) / wide, (rows.max() + 1) / high
    true = [edge / SIZE[place % 2] for place, edge in enumerate(EDGES)]
    assert np.abs(np.subtract(shown, true)).max() < 0.02


def test_decisions_tell_points_and_shares_and_never_pixels(told):
    plain = json.loads(json.dumps(decision_dict(told.decisions[-1])))["outputs"]
    (pose,) = plain["pose"]["poses"]
    point = pose["points"][1]
    assert (plain["pose"]["frame"], plain["pose"]["size"], point["name"]) == ("image", list(SIZE), "far")
    assert np.divide(point["at"], SIZE) == pytest.approx(point["at_relative"], abs=1e-3)
    assert set(plain["area"]) == {"label", "on", "scores", "frame", "size"}
    assert sum(plain["area"]["scores"].values()) == pytest.approx(1, abs=1e-3)


def test_events_tell_points_and_their_pictures_show_them(told):
    event = next(event for event in told.events if event.output == "pose")
    (pose,) = event.to_dict()["poses"]
    assert pose["label"] == "red"
    assert event.alone["image"] == pytest.approx(blobs.SEEN, abs=0.01)
    picture = opened_picture(event.jpeg())
    points = event.marks.poses[0].points
    x, y = (round((points[0].x + points[1].x) / 2), round((points[0].y + points[1].y) / 2))
    assert np.abs(picture[y - 1 : y + 3, x] - drawing.colour("red")).max(axis=1).min() < 60, "the line between them"
    assert np.abs(picture[20, 20] - 60).max() < 30, "no mask: that is another output's"


def test_the_picture_of_a_mask_s_event_shows_it(told):
    event = next(event for event in told.events if event.output == "area" and event.label == "red")
    assert event.score == pytest.approx(0.125, abs=0.01)
    assert "poses" not in event.to_dict()
    ground, red = drawing.mask_colours(blobs.AREA).values()
    picture = opened_picture(event.jpeg())
    for (x, y), own, shade in (((20, 20), ground, (60, 60, 60)), ((200, 200), red, (230, 30, 30))):
        mixed = np.array(own) * drawing.TINT + np.array(shade) * (1 - drawing.TINT)
        assert np.abs(picture[y, x] - mixed).max() < 30


def test_a_command_writes_points_to_a_file(marks_bundle, still_clip, tmp_path):
    sources = [{"stream": {"inputs": ["image", "audio"], "url": str(still_clip)}}]
    sinks = [{"jsonl": {"path": str(tmp_path / "told.jsonl"), "decisions": True}}, "console"]
    (tmp_path / "run.yaml").write_text(json.dumps({"sources": sources, "sinks": sinks}))
    done = cli("run", marks_bundle, "-c", tmp_path / "run.yaml", "--fast")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    told = [row["outputs"]["pose"]["poses"] for row in rows if row["type"] == "decision"]
    assert [point["name"] for point in told[-1][0]["points"]] == blobs.POINTS
    assert any(row["type"] == "event" and row["output"] == "pose" and row["poses"] for row in rows)


def test_points_and_shares_reach_the_broker(marks_bundle, still_clip, broker, monkeypatch):
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    listener, stop = Listener(broker), threading.Event()
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD", "scores": True}
    source = {"stream": {"inputs": ["image", "audio"], "url": str(still_clip), "loop": True}}
    opened = open_bundle(marks_bundle)
    runner = Runner(opened, parse({"name": "yard", "sources": [source], "sinks": [{"mqtt": mqtt}]}, opened.card))
    thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
    thread.start()

    def posed():
        outputs = [json.loads(one)["outputs"] for one in listener.payloads("edgemm/yard/decision")]
        return [one for one in outputs if one["pose"].get("poses")]

    try:
        told = wait_for(posed, 30)[-1]
        events = wait_for(lambda: [one for one in map(json.loads, listener.payloads("edgemm/yard/event")) if one["output"] == "pose"], 30)
    finally:
        stop.set()
        thread.join(10)
        listener.stop()
    assert told["area"]["scores"]["red"] == pytest.approx(0.125, abs=0.02)
    assert [point["name"] for point in events[0]["poses"][0]["points"]] == blobs.POINTS


def test_the_page_draws_points_and_masks_and_names_them(marks_bundle, still_clip):
    opened = open_bundle(marks_bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(still_clip)}}
    runner = Runner(opened, parse({"decide_hz": 15, "sources": [source]}, opened.card), fast=True)
    page = Page(runner, WebSettings(port=0))
    runner.add_sink("web", page)
    stop = threading.Event()
    port = int(page.address.rstrip("/").rpartition(":")[2])
    seen = {}

    def look(decision):
        if decision.number == 20:
            page.decision(decision)
            seen["live"], seen["status"] = get(port, "/live.jpg"), json.loads(get(port, "/status")[2])

    runner.on_decision.append(look)
    runner.run(stop)
    _, headers, body = seen["live"]
    (tag,) = json.loads(headers["x-edgemm-tracks"])
    assert set(tag) == {"label", "score", "box_relative", "colour"}
    assert tag["box_relative"] == pytest.approx([edge / SIZE[place % 2] for place, edge in enumerate(EDGES)], abs=0.02)
    ground = drawing.mask_colours(blobs.AREA)["ground"]
    assert seen["status"]["colours"]["area"]["ground"] == "rgb({}, {}, {})".format(*ground)
    picture = opened_picture(body)
    assert np.abs(picture[20, 20] - (np.array(ground) * drawing.TINT + 60 * (1 - drawing.TINT))).max() < 30
    corner = picture[EDGES[1] - 2 : EDGES[1] + 3, EDGES[0] - 2 : EDGES[0] + 3]
    assert np.abs(corner - drawing.colour("red")).max(axis=-1).min() < 60
    assert seen["status"]["decision"]["outputs"]["pose"]["poses"][0]["label"] == "red"


def test_where_the_picture_is_missing_nothing_is_marked():
    card = blobs.card(Path(), outputs=blobs.MARKS)
    outputs = {"area": np.zeros((1, 2, 96, 128), np.float32), "pose": np.ones((1, 1, 7), np.float32)}
    readings, _ = Decider(card, {}).update(outputs, 0.0, {})
    assert readings["pose"].marks is None
    assert readings["area"].marks is None
    assert readings["pose"].scores == {"red": 1.0}


def posed(*scores, **settings):
    """The reading of an answer with one object a score, in a picture as large as the model's."""
    pose = {**blobs.MARKS["pose"], "labels": ["red", "blue"]}
    card = blobs.card(Path(), outputs={"pose": pose})
    rows = [[*pair, 10, 20, 0.9, 30, 40, 0.9] for pair in scores]
    decider = Decider(card, {"pose": DecisionSettings(**settings)})
    return decider.update({"pose": np.array([rows], np.float32)}, 0.0, {"image": (96, 128)})[0]["pose"]


def test_things_below_their_label_s_threshold_are_not_told():
    reading = posed((0.7, 0), (0.4, 0), (0, 0.4), threshold=0.5, classes={"blue": {"threshold": 0.3}})
    assert [(pose.label, round(pose.score, 2)) for pose in reading.marks.poses] == [("red", 0.7), ("blue", 0.4)]
    assert posed((0.4, 0)).marks.poses == ()


POSE = Pose("red", 0.9, (Point("a", 0.9, 10, 10), Point("b", 0.9, 90, 10), Point("c", 0.1, 50, 40)), ((0, 1), (1, 2)))


def painted(*marks, size=(50, 100)):
    array = np.zeros((*size, 3), np.uint8)
    drawing.scene((), marks=marks)(array)
    return array


def test_a_skeleton_is_drawn_between_points_that_are_sure():
    array = painted(Marks("image", (100, 50), (POSE,)))
    own = drawing.colour("red")
    assert (array[10, 20:80] == own).all()
    assert not array[20:].any(), "the third point is not sure, nor is the line to it"


@pytest.mark.parametrize("far", [-5.0, 1e12, float("nan"), float("inf")])
def test_points_outside_of_the_picture_are_not_drawn(far):
    array = painted(Marks("image", (100, 50), (Pose("red", 0.9, (Point("a", 0.9, far, 10), POSE.points[1]), ((0, 1),)),)))
    assert not array[:, :80].any()
    assert array[10, 90].any()


def test_a_mask_tints_what_is_known_in_whatever_size():
    numbers = np.array([[0, 255], [255, 1]], np.uint8)
    array = painted(Marks("image", (100, 50), mask=Mask(("floor", "wall"), numbers)))
    floor, wall = drawing.mask_colours(("floor", "wall")).values()
    assert (array[:25, :50] == np.rint(np.array(floor) * drawing.TINT)).all()
    assert (array[25:, 50:] == np.rint(np.array(wall) * drawing.TINT)).all()
    assert not array[:25, 50:].any()
    assert not array[25:, :50].any()
    assert floor != wall


def test_captions_are_of_the_picture_that_is_shown():
    marks = {name: Marks(name, (100, 50), (POSE,), mask) for name, mask in (("left", None), ("right", Mask(("floor",), np.zeros((1, 1)))))}
    readings = {f"{name}s": Reading("red", {"red": 0.9}, marks=one) for name, one in marks.items()}
    decision = Decision(1, 0.0, 0.0, readings, (), ("left", "right"), (), {}, 1.0, frames={"left": object(), "right": object()})
    captions = Captions(decision, {})
    assert captions.marks == [marks["left"]]
    assert captions.colours() == {}
    assert [tag["box_relative"] for tag in captions.tags()] == [[0.1, 0.2, 0.9, 0.2]]
