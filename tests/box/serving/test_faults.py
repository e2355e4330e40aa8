"""Everything breaks once while `edgemm run` runs: the real camera, the real broker."""

import itertools
import json
import subprocess
import threading
import time

import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.source_threads import Patience
from tests.box.serving.conftest import BRIGHT, DARK, Listener, wait_for, write_clip


def test_camera_and_broker_die_and_come_back_and_no_event_is_lost(bundle, camera, broker, tmp_path, monkeypatch):
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    lively = write_clip(tmp_path / "clip.mp4", [(DARK, 0.0), (BRIGHT, 0.6)] * 20, seconds=1.0)
    real = camera(lively)
    opened = open_bundle(bundle)
    settings = parse(
        {
            "name": "porch",
            "inputs": {"image": {"stale_s": 1.0}, "audio": {"stale_s": 1.0}},
            "sources": [{"stream": {"inputs": ["image", "audio"], "url": real.url, "read_timeout_s": 1.0}}],
            "decisions": {"event": {"quiet": ["quiet"], "cool_down_s": 0.0, "debounce": 1}},
            "sinks": [
                {"jsonl": {"path": str(tmp_path / "run.jsonl")}},
                {"mqtt": {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD"}},
            ],
        },
        opened.card,
    )
    runner, stop = Runner(opened, settings, patience=Patience(no_data_s=3.0, first_s=0.3, most_s=0.6)), threading.Event()
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        listener = Listener(broker)
        wait_for(lambda: runner.events >= 2, 30)
        assert runner.status()["state"] == "running"

        real.stop()
        gone = time.monotonic()
        wait_for(lambda: runner.status()["state"] == "waiting", 15)
        print(f"camera killed: told after {time.monotonic() - gone:.1f} s")
        wait_for(lambda: listener.payloads("edgemm/porch/running")[-1:] == [b"offline"], 15)
        assert runner.status()["why"] == "nothing from image, audio"
        assert runner.status()["sources"][0]["state"] == "down"
        real.start()
        back = time.monotonic()
        wait_for(lambda: listener.payloads("edgemm/porch/running")[-1:] == [b"online"], 20)
        print(f"camera back: decisions after {time.monotonic() - back:.1f} s")
        listener.stop()

        before = runner.events
        broker.stop()
        wait_for(lambda: runner.events >= before + 3, 30)
        broker.start()
        back = time.monotonic()
        outlet = next(sink for sink in runner.outlets if sink.name == "mqtt")
        wait_for(lambda: outlet.describe()["connected"] and outlet.describe()["waiting"] == 0, 30)
        print(f"broker back: every event that waited confirmed after {time.monotonic() - back:.1f} s")
    finally:
        stop.set()
        thread.join(10)
    told = [json.loads(line)["id"] for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert len(told) == len(set(told)) == runner.events
    assert broker.received("edgemm/porch/event") >= len(told), "what the broker got before it died and after it came back"
    assert outlet.describe()["dropped"] == outlet.describe()["expired"] == 0


def test_a_camera_that_loses_its_sound_is_judged_by_its_pictures_alone(bundle, camera, clip):
    opened = open_bundle(bundle)
    real = camera(clip, sound=False)
    settings = parse({"sources": [{"stream": {"inputs": ["image", "audio"], "url": real.url}}]}, opened.card)
    runner, stop = Runner(opened, settings), threading.Event()
    seen = []
    runner.on_decision.append(seen.append)
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: len(seen) > 3, 30)
    finally:
        stop.set()
        thread.join(10)
    assert {(decision.voted, decision.stood_in) for decision in seen} == {(("image",), ("audio",))}
    assert "has no sound track" in runner.status()["sources"][0]["notes"][0]


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here (root can): {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], timeout=30, check=True)


def fill(disk):
    """Leave not a byte free."""
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(bytes(4096) for _ in range(1024))


def test_a_full_disk_stops_nothing_and_tears_no_line(bundle, clip, tiny_disk):
    opened = open_bundle(bundle)
    log = tiny_disk / "run.jsonl"
    settings = parse(
        {
            "sources": [{"stream": {"inputs": ["image", "audio"], "url": str(clip), "loop": True}}],
            "sinks": [{"jsonl": {"path": str(log), "decisions": True}}],
            "drift": {"window": 5, "limit": 1e-6, "save": str(tiny_disk / "kept")},
        },
        opened.card,
    )
    runner, stop = Runner(opened, settings), threading.Event()
    thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
    wait_for(lambda: log.exists())
    fill(tiny_disk)
    thread.start()
    try:
        (outlet,) = runner.outlets
        wait_for(lambda: outlet.failed > 3, 40, "a line that did not fit")
        assert "No space left on device" in outlet.describe()["error"]
        wait_for(lambda: "No space left" in runner.status()["drift"].get("save_error", ""), 40, "a sample that did not fit")
        decided = runner.engine.decided
        wait_for(lambda: runner.engine.decided > decided + 10, 40, "decisions go on")
        (tiny_disk / "filler").unlink()
        size = log.stat().st_size
        wait_for(lambda: log.stat().st_size > size + 2000, 40, "writing goes on")
    finally:
        stop.set()
        thread.join(10)
    numbers = [json.loads(line)["number"] for line in log.read_text().splitlines() if '"decision"' in line]
    assert numbers == sorted(set(numbers)), "every line is whole"


def test_a_wall_clock_that_is_set_by_a_day_changes_nothing_but_the_stamps(bundle, broker, tmp_path, monkeypatch):
    long = write_clip(tmp_path / "clip.mp4", [(BRIGHT, 0.6)] * 60, seconds=1.0, size=(160, 120))
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    now, offset_s = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + offset_s[0])
    opened = open_bundle(bundle)
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD"}
    source = {"inputs": ["image", "audio"], "url": str(long)}
    settings = parse({"sources": [{"stream": source}], "sinks": [{"mqtt": mqtt}]}, opened.card)
    runner, stop, seen = Runner(opened, settings, wall=lambda: time.time()), threading.Event(), []
    runner.on_decision.append(seen.append)
    thread = threading.Thread(target=runner.run, args=(stop,), daemon=True)
    thread.start()
    try:
        for step_s in (0.0, 86400.0, -86400.0):
            before, offset_s[0] = len(seen), step_s
            wait_for(lambda before=before: len(seen) > before + 15, 40, "decisions after the clock was set")
        status = runner.status()
    finally:
        stop.set()
        thread.join(10)
    assert max(abs(a.wall_s - b.wall_s) for a, b in itertools.pairwise(seen)) > 80000, "the clock was set"
    assert {len(decision.voted) for decision in seen} == {2}, "nothing went stale"
    assert max(age for decision in seen for age in decision.ages_s.values()) < 2
    (sink,) = status["sinks"]
    assert (sink["connected"], sink["expired"], sink["dropped"]) == (True, 0, 0)
    assert status["sources"][0]["reconnects"] == 0
