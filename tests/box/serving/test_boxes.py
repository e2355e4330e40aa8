"""A model with boxes served whole: in pixels of the camera's picture, followed, told once, by broker, file, page and picture."""

import io
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import WebSettings
from edgemm.box.serving.web import Page
from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import Event, Sink
from tests.box.serving import blobs
from tests.box.serving.conftest import Listener, cli, wait_for
from tests.box.serving.test_web import get

pytestmark = pytest.mark.timeout(180)
SIZE = 640, 360
ZONES = {"middle": [[0.4, 0.0], [0.6, 0.0], [0.6, 1.0], [0.4, 1.0]]}
LINES = {"gate": [[0.5, 0.0], [0.5, 1.0]]}


@pytest.fixture(scope="session")
def blob_bundle(shared):
    return shared("blob-bundle", blobs.make_bundle) / "bundle"


@pytest.fixture(scope="session")
def blob_clip(shared):
    def write(folder):
        blobs.write_clip(folder / "clip.mp4", blobs.crossing, seconds=10, size=SIZE)

    return shared("blob-clip", write) / "clip.mp4"


class Kept(Sink):
    """Keeps everything it is told."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.events: list[Event] = []
        self.news = []

    def decision(self, decision):
        self.decisions.append(decision)

    def event(self, event):
        self.events.append(event)

    def tracked(self, news, voted):
        self.news.append((news, voted))


def play(bundle, clip, **settings):
    """All that is told of a clip, played fast."""
    opened = open_bundle(bundle)
    source = {"stream": {"inputs": ["image", "audio"], "url": str(clip)}}
    runner, kept = Runner(opened, parse({"decide_hz": 15, "sources": [source], **settings}, opened.card), fast=True), Kept()
    runner.add_sink("kept", kept)
    runner.run(threading.Event())
    return kept


@pytest.fixture(scope="module")
def told(blob_bundle, blob_clip):
    return play(blob_bundle, blob_clip, zones=ZONES, lines=LINES)


def test_boxes_are_in_pixels_of_the_cameras_picture(told):
    tracks = [(one.at_s, track) for one in told.decisions for track in one.readings["objects"].tracks if track.is_seen]
    step = SIZE[0] / blobs.MODEL[0]
    assert len(tracks) > 100
    for _, track in tracks:
        box = track.box
        if track.label == "blue":
            edges, true = (box.x0, box.y0, box.x1, box.y1), (520, 40, 580, 100)
        else:
            edges, true = (box.y0, box.y1), (120, 240)
        assert max(abs(edge - other) for edge, other in zip(edges, true, strict=True)) <= step
        assert track.size == SIZE


@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
@pytest.mark.parametrize("size", [(640, 360), (322, 406)])
def test_however_a_picture_is_fitted_its_boxes_come_back(fit, size, tmp_path):
    bundle = blobs.make_bundle(tmp_path / "bundle", fit=fit)
    true = round(size[0] * 0.4), round(size[1] * 0.3), round(size[0] * 0.6), round(size[1] * 0.65)
    still = [("red", true[0], true[1], true[2] - true[0], true[3] - true[1])]
    kept = play(bundle, blobs.write_clip(tmp_path / "clip.mp4", lambda t: still, seconds=2, size=size))
    (track,) = kept.decisions[-2].readings["objects"].tracks
    shares = size[0] / blobs.MODEL[0], size[1] / blobs.MODEL[1]
    step = {"letterbox": max(shares), "crop": min(shares), "stretch": max(shares)}[fit]
    edges = (track.box.x0, track.box.y0, track.box.x1, track.box.y1)
    assert max(abs(edge - other) for edge, other in zip(edges, true, strict=True)) <= step


def test_a_bundles_own_thresholds_count_where_nobody_says_another(blob_clip, tmp_path):
    bundle = blobs.make_bundle(tmp_path / "bundle", thresholds={"red": 0.9, "blue": 0.3})

    def labels(**settings):
        return {news.after.label for news, _ in play(bundle, blob_clip, **settings).news}

    assert labels() == {"blue"}
    assert labels(tracks={"objects": {"threshold": 0.5}}) == {"red", "blue"}


def test_what_happens_is_told_once_with_who_voted(told):
    happened = [(event.label, event.kind, event.incident.place) for event in told.events]
    assert happened == [("red", "entered", "middle"), ("red", "crossed", "gate"), ("red", "left", "middle")]
    event = told.events[0]
    assert event.voted == ("image", "audio")
    assert event.alone["image"] == pytest.approx(blobs.SEEN, abs=0.01)
    assert event.alone["audio"] == 0.0
    plain = event.to_dict()
    assert (plain["kind"], plain["zone"], plain["track"]["id"]) == ("entered", "middle", event.incident.track.id)
    assert told.events[1].to_dict()["line"] == "gate"
    assert told.events[1].to_dict()["side"] == "left"


def test_each_track_is_new_once_and_ends_once_and_has_its_own_id(told):
    kinds = {}
    for news, _ in told.news:
        kinds.setdefault(news.after.id, []).append(news.kind)
    assert sorted(one[0] for one in kinds.values()) == ["new", "new"]
    assert all(one[-1] == "end" and one.count("end") == 1 for one in kinds.values())
    assert {news.after.label for news, _ in told.news} == {"red", "blue"}


def test_the_picture_of_an_event_shows_its_box_drawn(told):
    from PIL import Image

    from edgemm.box.serving.drawing import around, colour

    event = next(event for event in told.events if event.kind == "entered")
    picture = np.asarray(Image.open(io.BytesIO(event.jpeg())).convert("RGB")).astype(int)
    x0, y0, x1, y1 = around(event.incident.track)
    assert picture.shape[:2] == (((y1 - y0) // 2) * 2, ((x1 - x0) // 2) * 2)
    box = event.incident.track.box
    row, column = round((box.y0 + box.y1) / 2 - y0), round(box.x0 - x0)
    assert np.abs(picture[row, column] - colour("red")).max() < 60
    assert np.abs(picture[4, 4] - 60).max() < 30, "around it is the picture itself"


def test_a_command_with_zones_writes_events_and_tracks(blob_bundle, blob_clip, tmp_path):
    (tmp_path / "run.yaml").write_text(
        json.dumps(
            {
                "zones": ZONES,
                "sources": [{"stream": {"inputs": ["image", "audio"], "url": str(blob_clip)}}],
                "sinks": [{"jsonl": {"path": str(tmp_path / "told.jsonl"), "tracks": True}}, "console"],
            }
        )
    )
    done = cli("run", blob_bundle, "-c", tmp_path / "run.yaml", "--fast")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows if row["type"] == "event"] == ["entered", "left"]
    assert {row["kind"] for row in rows if row["type"] == "track"} >= {"new", "end"}
    assert "red entered middle (" in done.stdout


@pytest.fixture
def running(blob_bundle, blob_clip, broker, monkeypatch):
    """``running(**settings)``: a Runner on the looping clip that publishes to the broker, in a thread."""
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    secrets = {"user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD"}
    stops = []

    def start(*, mqtt=None, page=False, sources=None, **settings):
        opened = open_bundle(blob_bundle)
        sinks = [{"mqtt": {"host": "127.0.0.1", "port": broker.port, **secrets, **(mqtt or {})}}]
        sources = sources or [{"stream": {"inputs": ["image", "audio"], "url": str(blob_clip), "loop": True}}]
        runner = Runner(opened, parse({"name": "yard", "decide_hz": 10, "sources": sources, "sinks": sinks, **settings}, opened.card))
        shown = Page(runner, WebSettings(port=0)) if page else None
        if shown:
            runner.add_sink("web", shown)
        stop = threading.Event()
        thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
        thread.start()
        stops.append((stop, thread))
        return (runner, int(shown.address.rstrip("/").rpartition(":")[2])) if shown else runner

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(10)


def test_counts_occupancy_events_and_frigates_form_reach_the_broker(running, broker):
    listener = Listener(broker)
    runner = running(zones=ZONES, mqtt={"pictures": True})
    base = "edgemm/yard"
    entered = json.loads(wait_for(lambda: listener.payloads(f"{base}/event"), 30)[0])
    assert (entered["event_type"], entered["zone"], entered["label"], entered["voted"]) == ("entered", "middle", "red", ["image", "audio"])
    wait_for(lambda: b"ON" in listener.payloads(f"{base}/objects/middle"))
    wait_for(lambda: listener.payloads(f"{base}/objects/middle")[-1:] == [b"OFF"], 20)
    assert listener.payloads(f"{base}/objects/middle") == [b"OFF", b"ON", b"OFF"]
    assert listener.payloads(f"{base}/objects/middle/red") == [b"0", b"1", b"0"]
    assert listener.payloads(f"{base}/objects/middle/all") == [b"0", b"1", b"0"]
    assert set(listener.payloads(f"{base}/objects/red")) == {b"0", b"1"}
    assert json.loads(listener.payloads(f"{base}/objects/middle/attributes")[0])["track"]["id"] == entered["track"]["id"]
    for topic in (f"{base}/picture", f"{base}/objects/middle/picture"):
        assert wait_for(lambda topic=topic: listener.payloads(topic))[0][:2] == b"\xff\xd8"
    wait_for(lambda: any(json.loads(one)["type"] == "end" for one in listener.payloads(f"{base}/tracks")), 20)
    news = [json.loads(one) for one in listener.payloads(f"{base}/tracks")]
    mine = [one for one in news if one["after"]["id"] == entered["track"]["id"]]
    assert mine[0]["type"] == "new"
    assert mine[0]["before"]["false_positive"]
    assert {"camera", "frame_time", "top_score", "box", "current_zones", "entered_zones", "stationary", "start_time"} <= set(
        mine[0]["after"]
    )
    assert mine[0]["edgemm"]["voted"] == ["image", "audio"]
    retained = {topic for topic, _, retain in listener.messages if retain and topic.startswith(base)}
    assert f"{base}/tracks" not in retained
    decided = runner.engine.decided
    busiest = max(len(listener.payloads(topic)) for topic in {topic for topic, *_ in listener.messages} - {f"{base}/tracks"})
    assert busiest < decided / 4, "no topic has a message a picture"
    listener.stop()


def test_home_assistant_is_told_of_counts_and_zones(running, broker):
    listener = Listener(broker)
    running(zones={**ZONES, "red": ZONES["middle"], "all": ZONES["middle"]}, mqtt={"pictures": True})
    config = json.loads(wait_for(lambda: listener.payloads("homeassistant/device/edgemm_yard/config"))[0])
    parts = config["cmps"]
    assert parts["objects_red"]["p"] == "sensor"
    assert parts["objects_red"]["state_topic"] == "edgemm/yard/objects/red"
    zone = parts["objects_middle"]
    assert (zone["p"], zone["device_class"], zone["state_topic"]) == ("binary_sensor", "occupancy", "edgemm/yard/objects/middle")
    assert parts["objects_middle_all"]["state_topic"] == "edgemm/yard/objects/middle/all"
    assert parts["objects_middle_picture"]["image_topic"] == "edgemm/yard/objects/middle/picture"
    assert set(parts["event"]["event_types"]) == {"appeared", "entered", "left", "loitering", "crossed"}
    assert len({one["unique_id"] for one in parts.values()}) == len(parts) == len({key.lower() for key in parts})
    states = [one["state_topic"] for one in parts.values() if one.get("state_topic", "").startswith("edgemm/yard/objects/")]
    assert len(states) == len(set(states)) == 2 + 2 * 3
    listener.stop()


def test_when_the_camera_goes_its_tracks_end_and_counts_fall(running, broker, camera, blob_clip):
    listener, one = Listener(broker), camera(blob_clip)
    source = {"stream": {"inputs": ["image", "audio"], "url": one.url, "read_timeout_s": 1.0}}
    running(sources=[source], inputs={"image": {"stale_s": 1.0}, "audio": {"stale_s": 1.0}})
    topic = "edgemm/yard/objects/red"

    def news(kind):
        return [n["after"]["id"] for n in map(json.loads, listener.payloads("edgemm/yard/tracks")) if n["type"] == kind]

    wait_for(lambda: listener.payloads(topic)[-1:] == [b"1"], 30, "the first thing")
    one.stop()
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"0"], 20, "the count's fall")
    wait_for(lambda: listener.payloads("edgemm/yard/running")[-1:] == [b"offline"], 20)
    wait_for(lambda: sorted(news("end")) == sorted(news("new")), what="the end of every track")
    one.start()
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"1"], 40, "its return")
    assert len(set(news("new"))) == len(news("new"))
    listener.stop()


def test_when_it_is_switched_off_nothing_is_followed(running, broker):
    listener = Listener(broker)
    running()
    topic = "edgemm/yard/objects/red"
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"1"], 30)
    listener.client.publish("edgemm/yard/enabled/set", "OFF")
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"0"], 10)
    listener.client.publish("edgemm/yard/enabled/set", "ON")
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"1"], 20)
    listener.stop()


def test_a_model_that_waits_for_an_input_follows_nothing(running, broker):
    listener = Listener(broker)
    runner = running(whole=True)
    topic = "edgemm/yard/objects/red"
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"1"], 30)
    assert runner.engine.control("modalities", "image")
    wait_for(lambda: listener.payloads(topic)[-1:] == [b"0"], 10)
    assert runner.engine.why_waiting == "nothing from audio"
    listener.stop()


def test_the_page_draws_boxes_and_says_what_they_are(running):
    runner, port = running(page=True, zones=ZONES)
    wait_for(lambda: runner.engine._last and runner.engine._last.readings["objects"].tracks, 20)

    def seen():
        _, headers, body = get(port, "/live.jpg")
        tags = json.loads(headers.get("x-edgemm-tracks", "[]"))
        return (tags, body) if tags else None

    tags, body = wait_for(seen, 20)
    assert set(tags[0]) == {"id", "label", "score", "box_relative", "colour"}
    from PIL import Image

    from edgemm.box.serving.drawing import AREA

    picture = np.asarray(Image.open(io.BytesIO(body)).convert("RGB")).astype(int)
    assert np.abs(picture[40, round(0.4 * picture.shape[1]) + 1] - AREA[0]).max() < 70, "the zone's edge"
    status = json.loads(get(port, "/status")[2])
    assert {track["label"] for track in status["decision"]["outputs"]["objects"]["tracks"]} <= {"red", "blue"}


@pytest.mark.chromium
def test_a_browser_shows_the_boxes_names(running, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (make system installs it)")
    runner, port = running(page=True, zones=ZONES)
    wait_for(lambda: runner.events > 0, 30)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900"]
    wait_for(lambda: runner.engine._last.readings["objects"].tracks, 20)
    drawn = subprocess.run(
        [browser, *flags, "--timeout=6000", "--dump-dom", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert re.search(r'id="tags"><span style="left: [^>]*>(red|blue) [0-9a-f]{4} 0\.\d\d</span>', drawn.stdout)
