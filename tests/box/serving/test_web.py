"""The page: behind a token or on this machine alone, and drawn in a real browser."""

import http.client
import json
import re
import shutil
import subprocess
import threading

import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import WebSettings
from edgemm.box.serving.web import Page, is_loopback
from edgemm.errors import RunError
from tests.box.serving.conftest import wait_for

TOKEN = "web-token-0123456789"


@pytest.fixture
def serving(bundle, clip, monkeypatch):
    """``serving(**web)``: a page beside a run on the looping clip; its port, and the runner."""
    monkeypatch.setenv("PAGE_TOKEN", TOKEN)
    stops = []

    def start(**web):
        opened = open_bundle(bundle)
        source = {"stream": {"inputs": ["image", "audio"], "url": str(clip), "loop": True}}
        decisions = {"event": {"quiet": ["quiet"], "cool_down_s": 0.5}}
        runner, stop = Runner(opened, parse({"name": "porch", "sources": [source], "decisions": decisions}, opened.card)), threading.Event()
        page = Page(runner, WebSettings(port=0, **web))
        runner.add_sink("web", page)
        runner.on_tick.append(page.pulse)
        thread = threading.Thread(target=runner.run, args=(stop,))
        thread.start()
        stops.append((stop, thread))
        return int(page.address.rstrip("/").rpartition(":")[2]), runner

    yield start
    for stop, thread in stops:
        stop.set()
        thread.join(10)


def get(port, path, **headers):
    """Status, headers and body."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    line.request("GET", path, headers=headers)
    answer = line.getresponse()
    body = answer.read()
    line.close()
    return answer.status, dict(answer.getheaders()), body


def test_status_picture_metrics_and_health_are_served(serving):
    port, runner = serving()
    wait_for(lambda: runner.engine.decided > 3)
    status = wait_for(lambda: (found := json.loads(get(port, "/status")[2])).get("decision") and found)
    assert (status["name"], status["decision"]["voted"]) == ("porch", ["image", "audio"]) or status["decision"]["stood_in"] == ["audio"]
    assert status["expected"]["event"] == {"name": "accuracy", "value": {1: 0.7, 2: 0.97}[len(status["voted"])]}
    assert get(port, "/live.jpg")[2][:2] == b"\xff\xd8"
    metrics = get(port, "/metrics")[2].decode()
    assert re.search(r'^edgemm_decisions_total\{box="porch"\} [1-9]', metrics, re.M)
    assert re.search(r'^edgemm_camera_up\{box="porch",camera="clip.mp4"\} 1', metrics, re.M)
    assert re.search(r'^edgemm_camera_fps\{box="porch",camera="clip.mp4"\} [1-9]', metrics, re.M)
    assert json.loads(get(port, "/healthz")[2])["healthy"]
    assert "default-src 'self'" in get(port, "/")[1]["content-security-policy"]


def test_events_are_pushed_as_they_happen(serving):
    port, _ = serving()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.request("GET", "/events")
    answer = line.getresponse()
    kinds = {}
    while "event" not in kinds:
        kind = answer.readline().decode()
        if kind.startswith("event: "):
            kinds[kind[7:].strip()] = json.loads(answer.readline().decode()[6:])
    line.close()
    assert kinds["event"]["label"] == "visitor"
    assert set(kinds["status"]["latency_ms"]) == {"p50", "p95"}


def test_a_name_that_is_not_this_machines_is_turned_away(serving):
    port, _ = serving()
    assert get(port, "/status", Host="evil.example")[0] == 421


def test_with_a_token_nothing_but_health_is_shown_without_it(serving):
    port, _ = serving(token_env="PAGE_TOKEN")
    assert [get(port, path)[0] for path in ("/", "/status", "/live.jpg", "/events", "/metrics")] == [401] * 5
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/?token=wrong")[0] == 401
    assert get(port, "/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    status, headers, _ = get(port, f"/?token={TOKEN}")
    assert (status, headers["location"]) == (307, "/")
    assert "HttpOnly" in headers["set-cookie"]
    assert get(port, "/", Cookie=headers["set-cookie"].split(";")[0])[0] == 200


def test_another_bind_needs_a_token(bundle, clip):
    opened = open_bundle(bundle)
    runner = Runner(opened, parse({"sources": [{"stream": {"inputs": "image", "url": str(clip)}}]}, opened.card))
    with pytest.raises(RunError, match=r"web.bind is '0.0.0.0', and there is no token") as caught:
        Page(runner, WebSettings(bind="0.0.0.0"))
    assert "token_env" in str(caught.value)
    runner.model.close()


def test_a_taken_port_is_named(serving, bundle, clip):
    port, runner = serving()
    with pytest.raises(RunError, match=f"cannot be served on 127.0.0.1:{port}"):
        Page(runner, WebSettings(port=port))


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)])
def test_what_is_this_machine_itself(host, own):
    assert is_loopback(host) is own


@pytest.mark.chromium
@pytest.mark.parametrize("size", ["1200,900", "400,1100"])
def test_the_page_shows_picture_scores_and_votes_in_a_browser(serving, tmp_path, size):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here (make system installs it)")
    port, runner = serving()
    wait_for(lambda: runner.engine.decided > 10)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={size}"]
    page = f"http://127.0.0.1:{port}/"
    shot = tmp_path / "page.png"
    subprocess.run([browser, *flags, "--timeout=6000", f"--screenshot={shot}", page], capture_output=True, timeout=120, check=False)
    drawn = subprocess.run(
        [browser, *flags, "--timeout=6000", "--dump-dom", page], capture_output=True, text=True, timeout=120, check=False
    )
    assert shot.stat().st_size > 10_000
    dom = drawn.stdout
    assert 'data-live="1"' in dom
    assert re.search(r'src="(blob:http:|(http:[^"]+/)?live.jpg\?)', dom), "a picture came"
    assert "visitor" in dom
    assert "measured with these inputs: accuracy 0.97" in dom
    assert re.search(r"<td>image</td><td[^>]*>\d+ ms old</td>", dom)
