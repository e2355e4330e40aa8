"""The other sinks: a webhook on a real server, a file that stays bounded, the console; and the threads that feed them."""

import http.server
import json
import threading
import time

import numpy as np
import pytest

from edgemm.box.serving.sink_threads import WAITING, Outlet
from edgemm.box.serving.sinks.console import Console
from edgemm.box.serving.sinks.jsonl import Jsonl
from edgemm.box.serving.sinks.webhook import Webhook
from edgemm.contracts.decision import Decision, Reading
from edgemm.contracts.sink import About, Event
from edgemm.errors import RunError
from tests.box.serving.conftest import wait_for

ABOUT = About("porch", "bundle", "1", ("image",), {}, {}, 0.6, lambda what, value: True)


def event(number=0, **more):
    given = {"voted": ("image",), "stood_in": (), "latency_ms": 1.0, **more}
    return Event(f"run-{number}", "event", "visitor", 0.9, 0.0, **given)


def decision(number=1, **more):
    readings = {"event": Reading("visitor", {"quiet": 0.1, "visitor": 0.9}, ("visitor",))}
    given = {"voted": ("image",), "stood_in": ("audio",), "ages_s": {"image": 0.1}, **more}
    return Decision(number, 0.0, 0.0, readings, (), latency_ms=2.0, **given)


@pytest.fixture
def hook():
    """A web server that answers with ``codes`` in turn and keeps what it got."""
    got, codes = [], []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(({**self.headers, "path": self.path}, json.loads(body)))
            self.send_response(codes.pop(0) if codes else 200)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got, codes
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_an_event_with_its_id_and_the_token(hook, monkeypatch):
    url, got, _ = hook
    monkeypatch.setenv("HOOK_TOKEN", "hook-token-9")
    sink = Webhook(url=url, token_env="HOOK_TOKEN")
    sink.event(event(7))
    headers, body = got[0]
    assert (body["id"], body["label"]) == ("run-7", "visitor")
    assert headers["Authorization"] == "Bearer hook-token-9"
    assert headers["Idempotency-Key"] == "run-7"
    assert sink.describe()["waiting"] == 0


def test_a_webhook_gets_headers_and_words_of_its_address_from_the_environment(hook, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", "hook-header-1")
    monkeypatch.setenv("HOOK_ID", "hook/id 1")
    url, got, _ = hook
    sink = Webhook(url=f"{url}/{{id}}", url_env={"id": "HOOK_ID"}, headers_env={"X-Api-Key": "HOOK_KEY"})
    sink.event(event(8))
    headers, _ = got[0]
    assert headers["path"] == "/hook/hook%2Fid%201"
    assert headers["X-Api-Key"] == "hook-header-1"
    monkeypatch.setenv("HOOK_TOKEN", "Bearer x-1")
    with pytest.raises(RunError, match="both give Authorization"):
        Webhook(url=url, token_env="HOOK_TOKEN", headers_env={"authorization": "HOOK_TOKEN"})


def test_what_a_webhook_could_not_take_is_sent_again_in_order(hook):
    url, got, codes = hook
    codes += [503]
    sink = Webhook(url=url)
    sink.event(event(1))
    sink.event(event(2))
    assert (len(got), sink.describe()["waiting"], sink.describe()["why"]) == (1, 2, "503 Service Unavailable")
    sink.stop()
    assert [body["id"] for _, body in got] == ["run-1", "run-1", "run-2"]


def test_what_a_webhook_refuses_for_good_is_given_up(hook):
    url, _, codes = hook
    codes += [400]
    sink = Webhook(url=url)
    sink.event(event(1))
    assert (sink.describe()["waiting"], sink.describe()["refused"]) == (0, 1)


def test_a_redirect_is_not_followed(hook):
    url, got, codes = hook
    codes += [302]
    sink = Webhook(url=url)
    sink.event(event(1))
    assert len(got) == 1
    assert sink.describe()["waiting"] == 1


def test_an_address_that_is_none_is_refused():
    with pytest.raises(RunError, match="is no web address"):
        Webhook(url="ftp://host/hook")


def test_the_file_begins_anew_at_its_bound_and_keeps_one_old_one(tmp_path):
    sink = Jsonl(path=str(tmp_path / "log" / "run.jsonl"), decisions=True, most_mib=0.002)
    for number in range(60):
        sink.decision(decision(number))
    sink.stop()
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["run.jsonl", "run.jsonl.1"]
    assert sum(path.stat().st_size for path in (tmp_path / "log").iterdir()) < 3 * 0.002 * 2**20
    last = json.loads((tmp_path / "log" / "run.jsonl").read_text().splitlines()[-1])
    assert (last["number"], last["stood_in"], last["outputs"]["event"]["on"]) == (59, ["audio"], ["visitor"])


def test_a_place_that_cannot_be_written_is_told_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Jsonl(path=str(tmp_path / "file" / "run.jsonl"))


def test_the_console_tells_events_and_who_votes(capsys):
    sink = Console(every=True)
    sink.start(ABOUT)
    sink.decision(decision())
    sink.event(event(voted=("audio",), stood_in=("image",), expected=0.61))
    drift = {"recalibrate": True, "why": "image lies far off"}
    status = {"wall_s": 0.0, "drift": drift, "sources": [{"name": "camera", "state": "down", "error": "it is [off]"}]}
    sink.status(status)
    sink.status({**status, "sources": [{"name": "camera", "state": "up", "error": ""}]})
    said = capsys.readouterr().out
    for words in ("voting: image; standing in for audio", "audio, right in 61% of cases", "camera is down: it is [off]", "camera is back"):
        assert words in said
    assert said.count("the model should be calibrated anew: image lies far off") == 1


class Slow:
    """A sink that takes its time, and fails when told to."""

    def __init__(self):
        self.gate, self.seen, self.fail = threading.Event(), [], False

    def start(self, about):
        pass

    def decision(self, decision):
        self.gate.wait(10)
        if self.fail:
            raise OSError("the disk is full; password rtsp://a:b@camera")
        self.seen.append(decision.number)

    def event(self, event):
        self.seen.append(event.id)

    def status(self, status):
        self.seen.append("status")

    def stop(self):
        self.seen.append("stop")


def test_a_slow_sink_gets_the_newest_decision_every_event_and_never_more_than_fit():
    sink = Slow()
    outlet = Outlet("slow", sink, ABOUT)
    outlet.start()
    outlet.decision(decision(1))
    time.sleep(0.2)
    began = time.monotonic()
    for number in range(2, 50):
        outlet.decision(decision(number))
    for number in range(WAITING + 10):
        outlet.event(event(number))
    assert time.monotonic() - began < 1.0, "the loop never waits for a sink"
    sink.gate.set()
    outlet.stop(5)
    assert [entry for entry in sink.seen if isinstance(entry, int)] == [1, 49]
    assert [entry for entry in sink.seen if str(entry).startswith("run-")] == [f"run-{number}" for number in range(10, WAITING + 10)]
    assert (outlet.dropped, outlet.delivered, sink.seen[-1]) == (10, WAITING, "stop")


def test_what_a_sink_raises_is_counted_redacted_and_stops_nothing():
    sink = Slow()
    sink.fail = True
    sink.gate.set()
    outlet = Outlet("slow", sink, ABOUT)
    outlet.start()
    outlet.decision(decision(1))
    wait_for(lambda: outlet.failed == 1)
    outlet.event(event(1))
    outlet.stop(5)
    assert "run-1" in sink.seen
    assert outlet.describe()["error"] == "OSError: the disk is full; password rtsp://***@camera"


def test_scores_that_are_numbers_survive_json():
    assert json.loads(json.dumps(event(alone={"image": float(np.float32(0.25))}).to_dict()))["alone"] == {"image": 0.25}
