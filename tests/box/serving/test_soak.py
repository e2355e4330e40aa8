"""Long runs, played fast: memory stays flat over two hours of real pictures and sound, and over a thousand real reconnects."""

import http.server
import os
import shutil
import subprocess
import threading

import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.health import rss_mib
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.source_threads import Feeder, Patience
from edgemm.box.serving.sources.stream import Stream
from edgemm.contracts.card import Input
from edgemm.contracts.modality import of
from tests.box.serving.conftest import RATE_HZ, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
HOURS = 2
SETTLED_S = 600.0  # of the recording: buffers and allocators are full
STATUS_S = 5.0


@pytest.fixture(scope="module")
def recording(clip, tmp_path_factory):
    """Two hours: the clip again and again, its packets copied."""
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg here (make system installs it)")
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    line = ["ffmpeg", "-v", "error", "-stream_loop", str(HOURS * 3600 // 8 - 1), "-i", clip, "-c", "copy", path]
    subprocess.run(line, check=True, timeout=300)
    return path


def test_memory_stays_flat_over_two_hours_of_camera_decisions_and_broker(bundle, recording, broker, tmp_path, monkeypatch):
    """Decoder, windows, branches, decisions, drift watch, file and broker; every second of it is played, as fast as the box can."""
    monkeypatch.setenv("BROKER_USER", broker.user)
    monkeypatch.setenv("BROKER_PASSWORD", broker.password)
    opened = open_bundle(bundle)
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user_env": "BROKER_USER", "password_env": "BROKER_PASSWORD", "pictures": True}
    settings = {
        "sources": [{"stream": {"inputs": ["image", "audio"], "url": str(recording)}}],
        "decisions": {"event": {"quiet": ["quiet"], "cool_down_s": 0.0}},
        "sinks": [{"mqtt": mqtt}, {"jsonl": {"path": str(tmp_path / "run.jsonl"), "decisions": True, "most_mib": 1.0}}],
        "drift": {},
    }
    runner = Runner(opened, parse(settings, opened.card), fast=True)
    memory: list[tuple[float, float]] = []

    def look(decision):
        if not memory or decision.at_s - memory[-1][0] >= STATUS_S:
            memory.append((decision.at_s, rss_mib()))
            status = runner.status()
            for outlet in runner.outlets:
                outlet.status(status)

    runner.on_decision.append(look)
    summary = runner.run(threading.Event())
    settled = max(held for at_s, held in memory if at_s < SETTLED_S)
    growth = max(held for at_s, held in memory if at_s >= SETTLED_S) / settled - 1
    print(f"{summary.seconds / 3600:.2f} h, {summary.decisions} decisions, {summary.events} events; {settled:.0f} MiB, growth {growth:.2%}")
    assert summary.seconds > HOURS * 3600 - 30
    assert summary.decisions > HOURS * 3600 * 4
    assert summary.events > HOURS * 3600 / 8
    assert growth < 0.02
    assert broker.received("edgemm/edgemm/event") >= summary.events


class Short(http.server.BaseHTTPRequestHandler):
    """A camera that hangs up after half a second of stream."""

    content = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def test_a_thousand_reconnects_of_a_real_stream_leave_nothing_behind(clip, tmp_path):
    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg here (make system installs it)")
    line = ["ffmpeg", "-v", "error", "-i", clip, "-t", "0.5", "-c", "copy", tmp_path / "short.ts"]
    subprocess.run(line, check=True, timeout=60)
    Short.content = (tmp_path / "short.ts").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Short)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wants = {
        "image": of(Input("image", "image", {"height": 32, "width": 32})),
        "audio": of(Input("audio", "audio", {"rate_hz": RATE_HZ, "seconds": 0.5})),
    }
    seen = {"image": 0, "audio": 0}

    def take(item, at_s):
        seen[item.input] += 1

    source = Stream(url=f"http://127.0.0.1:{server.server_port}/live.ts", inputs=["image", "audio"])
    feeder = Feeder(source, wants, take, patience=Patience(first_s=1e-3, most_s=2e-3))
    feeder.start()
    wait_for(lambda: feeder.reconnects >= 100, 600, "a hundred reconnects")
    threads, files, held = threading.active_count(), len(os.listdir("/proc/self/fd")), rss_mib()
    wait_for(lambda: feeder.reconnects >= 1100, 3000, "a thousand more")
    growth = rss_mib() / held - 1
    left = threading.active_count() - threads, len(os.listdir("/proc/self/fd")) - files
    feeder.stop()
    feeder.join(10)
    server.shutdown()
    server.server_close()
    print(f"{feeder.reconnects} reconnects, {seen}; {held:.0f} MiB, growth {growth:.2%}; threads and files more: {left}")
    assert min(seen.values()) > 1100
    assert growth < 0.02
    assert max(left) <= 3, "those of the connection that stands just now"
