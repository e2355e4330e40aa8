"""Everything breaks once while `edgemm run` runs: the real camera, the real broker."""

import json
import threading

from edgemm.bundle import open_bundle
from edgemm.runtime.feeding import Patience
from edgemm.runtime.reading import parse
from edgemm.runtime.running import Runner
from tests.runtime.conftest import BRIGHT, DARK, Listener, wait_for, write_clip


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
        wait_for(lambda: runner.status()["state"] == "waiting", 15)
        wait_for(lambda: listener.payloads("edgemm/porch/running")[-1:] == [b"offline"], 15)
        assert runner.status()["why"] == "nothing from image, audio"
        assert runner.status()["sources"][0]["state"] == "down"
        real.start()
        wait_for(lambda: listener.payloads("edgemm/porch/running")[-1:] == [b"online"], 20)
        listener.stop()

        before = runner.events
        broker.stop()
        wait_for(lambda: runner.events >= before + 3, 30)
        broker.start()
        outlet = next(sink for sink in runner.outlets if sink.name == "mqtt")
        wait_for(lambda: outlet.describe()["connected"] and outlet.describe()["waiting"] == 0, 30)
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
