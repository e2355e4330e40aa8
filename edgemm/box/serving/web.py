"""The page: live picture and decision, sound level, votes, latency, events; ``/metrics``, ``/healthz``, server-sent events."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from edgemm.box.serving import drawing
from edgemm.box.serving.captions import Captions
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.secrets import secret
from edgemm.box.serving.settings import WebSettings
from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import About, Event, Sink, decision_dict
from edgemm.errors import EdgemmError, RunError
from edgemm.redaction import redact

COOKIE = "edgemm_token"
TOLD_S = 0.4  # between two statuses to a page: fast enough for a bar, 2.5 wake-ups a second
ALONE_S = 1.0  # between two looks at what each input says alone; each costs one run of the rest for every input
EVENTS_KEPT = 20
WIDTH = 640
LARGEST = 65536  # bytes of what may be set at once
STUCK_S = 15.0  # without the loop's pulse for so long: not healthy
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Page(Sink):
    """Serves the page in a thread of its own; one of the runner's sinks.

    Raises:
        RunError: Another bind than this machine itself without a token, or the port is taken.
    """

    def __init__(self, runner: Runner, settings: WebSettings) -> None:
        self._runner, self._settings = runner, settings
        self._token = secret(settings.token_env, settings.token_file, "web: token")
        if self._token is None and not is_loopback(settings.bind):
            raise RunError(
                f"web.bind is '{settings.bind}', and there is no token.",
                why="whoever can reach this machine could watch the camera.",
                fix="set token_env or token_file, or leave bind at 127.0.0.1.",
            )
        self._decision: Decision | None = None
        self._events: deque[tuple[int, Event]] = deque(maxlen=EVENTS_KEPT)
        self._count = 0
        self._alone: dict[str, Any] = {}
        self._alone_s = 0.0
        self._jpeg: tuple[int, bytes, str] = (0, b"", "[]")
        self._lock = threading.Lock()
        self.pulse_s = time.monotonic()
        self._socket = _bound(settings)
        self.address = f"http://{settings.bind if settings.bind != '0.0.0.0' else '127.0.0.1'}:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(self.app(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # signals are the run's, not the page's
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="web", daemon=True)

    def start(self, about: About) -> None:
        self._thread.start()

    def decision(self, decision: Decision) -> None:
        self._decision = decision

    def event(self, event: Event) -> None:
        self._count += 1
        self._events.append((self._count, event))

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(3.0)
        self._socket.close()

    def pulse(self) -> None:
        """Called by the loop: it is alive."""
        self.pulse_s = time.monotonic()

    def app(self) -> Starlette:
        """The routes, behind the check of token and host."""
        routes = [
            Route("/", self._page),
            Route("/events", self._stream),
            Route("/live.jpg", self._picture),
            Route("/status", self._status),
            Route("/control", self._control, methods=["POST"]),
            Route("/healthz", self._health),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=self._guard)])

    async def _guard(self, request: Request, go_on: Callable[[Request], Any]) -> Response:
        """Let in who has the token; without one only who calls this machine by a name of its own (another name is a page elsewhere)."""
        if self._token is None:
            if not is_loopback(request.url.hostname or ""):
                return PlainTextResponse("unknown host", 421)
        elif request.url.path != "/healthz":
            token = request.query_params.get("token")
            if token is not None and hmac.compare_digest(token.encode(), self._token.encode()):
                answer = RedirectResponse(request.url.path)
                answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=request.url.scheme == "https")
                return answer
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ") or request.cookies.get(COOKIE, "")
            if not hmac.compare_digest(bearer.encode(), self._token.encode()):
                return PlainTextResponse("a token is needed: open /?token=..., or send it as Authorization: Bearer\n", 401)
        response: Response = await go_on(request)
        response.headers.update(HEADERS)
        return response

    async def _page(self, request: Request) -> Response:
        text = resources.files("edgemm.box.serving").joinpath("page.html").read_text(encoding="utf-8")
        first = json.dumps(await asyncio.to_thread(self._snapshot)).replace("<", "\\u003c")  # a name may hold what would end the script
        return HTMLResponse(text.replace("PERIOD_MS", str(round(1000 / self._settings.pictures_hz))).replace("FIRST_STATUS", first))

    async def _control(self, request: Request) -> Response:
        """Set something: JSON ``{"what": "<output>/enrol", "value": "Anna"}``. Of another page's making it is refused."""
        if not request.headers.get("content-type", "").startswith("application/json"):  # a form of another page cannot send that unasked
            return PlainTextResponse("send application/json\n", 415)
        if (origin := request.headers.get("origin")) and origin.partition("://")[2] != request.headers.get("host"):
            return PlainTextResponse("of another page\n", 403)
        body = await request.body()
        try:
            content = json.loads(body[:LARGEST])
            what, value = str(content["what"]), str(content["value"])
            done = await asyncio.to_thread(self._runner.control, what, value)
        except (ValueError, KeyError, TypeError):
            return PlainTextResponse('send {"what": ..., "value": ...}\n', 400)
        except EdgemmError as err:
            return PlainTextResponse(redact(" ".join(filter(None, (err.what, err.why, err.fix)))) + "\n", 422)
        return Response(status_code=204) if done else PlainTextResponse(f"'{what}' cannot be set\n", 404)

    async def _stream(self, request: Request) -> Response:
        return StreamingResponse(self._messages(request), media_type="text/event-stream")

    async def _messages(self, request: Request) -> AsyncIterator[str]:
        last_number = 0
        while not self._server.should_exit and not await request.is_disconnected():
            for number, event in list(self._events):
                if number > last_number:
                    last_number = number
                    yield _message("event", event.to_dict())
            yield _message("status", await asyncio.to_thread(self._snapshot))
            await asyncio.sleep(TOLD_S)

    def _snapshot(self) -> dict[str, Any]:
        decision = self._decision
        status = self._runner.status()
        if decision is not None:
            status["decision"] = decision_dict(decision)
            status["alone"] = self._votes()
            captions = self._captions(decision)
            status["tags"], status["colours"] = captions.tags(), captions.colours()
        return status

    def _votes(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._alone_s > ALONE_S:
                self._alone_s, said = time.monotonic(), self._runner.engine.alone()
                self._alone = {name: {output: dict(one.scores) for output, one in own.items() if one.scores} for name, own in said.items()}
            return self._alone

    async def _picture(self, request: Request) -> Response:
        """The picture of the last decision, its boxes drawn; what they are stands in a header: words and picture are of one moment."""
        content, tags = await asyncio.to_thread(self._current)
        if not content:
            return PlainTextResponse("no picture yet", 404)
        return Response(content, 200, {"X-Edgemm-Tracks": tags}, media_type="image/jpeg")

    def _current(self) -> tuple[bytes, str]:
        """The picture of the last decision, and what is seen in it as JSON; encoded once, however many watch."""
        decision = self._decision
        if decision is None or not decision.frames:
            return b"", "[]"
        with self._lock:
            if self._jpeg[0] != decision.number:
                name, frame = next(iter(decision.frames.items()))
                captions, shapes = self._captions(decision), self._runner.engine.scenes.shapes(name)
                tracks, marks = captions.tracks, captions.marks
                paint = drawing.scene(tracks, shapes, marks) if tracks or shapes or marks else None
                self._jpeg = (decision.number, frame.jpeg(WIDTH, paint=paint), json.dumps(captions.tags()))
            return self._jpeg[1:]

    def _captions(self, decision: Decision) -> Captions:
        return Captions(decision, self._runner.engine.scenes.frames)

    async def _status(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._snapshot))

    async def _health(self, request: Request) -> Response:
        silent = time.monotonic() - self.pulse_s
        fit = silent < STUCK_S
        return JSONResponse({"healthy": fit, "loop_silent_s": round(silent, 1)}, 200 if fit else 503)

    async def _metrics(self, request: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(_Metrics(self._runner.status()))
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Metrics:
    """The status in Prometheus' words."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> list[Any]:
        s, box = self._status, [self._status["name"]]
        families = [
            _family(CounterMetricFamily, "edgemm_decisions", "Decisions taken.", ["box"], [(box, s["decisions"])]),
            _family(CounterMetricFamily, "edgemm_events", "Events told.", ["box"], [(box, s["events"])]),
            _family(CounterMetricFamily, "edgemm_late_decisions", "Decisions on data that had to wait.", ["box"], [(box, s["late"])]),
            _family(GaugeMetricFamily, "edgemm_running", "1 while decisions are taken.", ["box"], [(box, float(s["state"] == "running"))]),
            _family(GaugeMetricFamily, "edgemm_resident_bytes", "Resident memory.", ["box"], [(box, s["rss_mib"] * 2**20)]),
            _family(
                GaugeMetricFamily, "edgemm_latency_seconds", "From arrival to decision.", ["box", "quantile"],
                [([*box, str(q)], s["latency_ms"][key] / 1000) for q, key in ((0.5, "p50"), (0.95, "p95"))],
            ),
            _family(
                CounterMetricFamily, "edgemm_branch_runs", "Runs of a branch.", ["box", "input"],
                [([*box, name], counts["ran"]) for name, counts in s["inputs"].items()],
            ),
            *(
                _family(
                    CounterMetricFamily, f"edgemm_{key}", f"{what} of sound, and steps.", ["box", "input"],
                    [([*box, name], counts[key]) for name, counts in s["inputs"].items() if key in counts],
                )
                for key, what in (("frames_computed", "Computed frames"), ("frames_kept", "Frames kept from an earlier window"))
            ),
            _family(
                CounterMetricFamily, "edgemm_passed_over", "Items that a newer one replaced before they were wanted.", ["box", "input"],
                [([*box, name], counts["passed_over"]) for name, counts in s["inputs"].items()],
            ),
            *_of_gates(s["gates"], box),
            _family(
                GaugeMetricFamily, "edgemm_camera_up", "1 while a source delivers.", ["box", "camera"],
                [([*box, one["name"]], float(one["state"] == "up")) for one in s["sources"]],
            ),
            _family(
                GaugeMetricFamily, "edgemm_camera_fps", "Pictures a second from a source.", ["box", "camera"],
                [([*box, one["name"]], one["rate_hz"]) for one in s["sources"]],
            ),
            _family(
                CounterMetricFamily, "edgemm_reconnects", "How often a source was opened again.", ["box", "camera"],
                [([*box, one["name"]], one["reconnects"]) for one in s["sources"]],
            ),
            _family(
                GaugeMetricFamily, "edgemm_av_skew_seconds", "How far a source's picture and sound are apart.", ["box", "camera"],
                [([*box, one["name"]], one["skew_s"]) for one in s["sources"]],
            ),
            _family(
                GaugeMetricFamily, "edgemm_mqtt_connected", "1 while the broker is there.", ["box"],
                [(box, float(one["connected"])) for one in s["sinks"] if "connected" in one],
            ),
        ]  # fmt: skip
        return families


def _of_gates(gates: Sequence[Mapping[str, Any]], box: list[str]) -> list[Any]:
    """What gates kept from running, and what shadow runs saw of it."""
    of: list[tuple[Any, str, str, Callable[[Mapping[str, Any]], float]]] = [
        (CounterMetricFamily, "edgemm_gate_skipped", "Calls of a branch that its gate kept from running.", lambda gate: gate["skipped"]),
        (CounterMetricFamily, "edgemm_gate_passed", "Calls of a gated branch that ran.", lambda gate: gate["passed"]),
        (GaugeMetricFamily, "edgemm_gate_open", "1 while a gate lets every call through.", lambda gate: float(gate["state"] == "open")),
        (CounterMetricFamily, "edgemm_gate_shadow_runs", "Skipped calls that ran all the same.", lambda gate: gate["shadow"]["runs"]),
        (CounterMetricFamily, "edgemm_gate_disagreed", "Of these, those that decided otherwise.", lambda gate: gate["shadow"]["disagreed"]),
    ]
    families = [
        _family(kind, name, words, ["box", "input"], [([*box, gate["input"]], value(gate)) for gate in gates])
        for kind, name, words, value in of
    ]
    ends = [([*box, gate["input"], end], gate["shadow"][end]) for gate in gates for end in ("share", "low", "high", "limit")]
    words = "Share of the last shadow runs that decided otherwise, its 95% interval, and what is allowed."
    shares = _family(GaugeMetricFamily, "edgemm_gate_disagreement", words, ["box", "input", "is"], ends)
    return [*families, shares] if gates else []


def _family(kind: Any, name: str, about: str, labels: list[str], rows: list[tuple[list[str], float]]) -> Any:
    family = kind(name, about, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bound(settings: WebSettings) -> socket.socket:
    kind = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    listener = socket.socket(kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.bind, settings.port))
        listener.listen(64)
    except OSError as err:
        listener.close()
        raise RunError(
            f"the page cannot be served on {settings.bind}:{settings.port}.", why=f"{err.strerror}.", fix="choose another web.port."
        ) from err
    return listener


def _message(kind: str, content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
