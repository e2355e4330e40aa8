"""A thread for each sink: events and news wait in bounded queues, of decisions only the newest; the loop never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edgemm.contracts.decision import Decision, Tracked
from edgemm.contracts.sink import About, Event, Sink
from edgemm.redaction import redact

UNDELIVERED = ("waiting", "expired", "overflowed", "refused")  # what a sink that keeps events says of those that did not arrive
WAITING = 256  # events; a sink that is so far behind is broken


class Inline:
    """Calls one sink at once, and lets what it raises pass: for recordings played faster than life, where nothing may be left out."""

    def __init__(self, name: str, sink: Sink, about: About) -> None:
        self.name, self._sink, self._about = name, sink, about

    def start(self) -> None:
        self._sink.start(self._about)

    def decision(self, decision: Decision) -> None:
        self._sink.decision(decision)

    def event(self, event: Event) -> None:
        self._sink.event(event)

    def tracked(self, news: Tracked, voted: tuple[str, ...]) -> None:
        self._sink.tracked(news, voted)

    def status(self, status: Mapping[str, Any]) -> None:
        self._sink.status(status)

    def changed(self, about: About) -> None:
        self._sink.changed(about)

    def describe(self) -> dict[str, Any]:
        own = getattr(self._sink, "describe", None)
        return {"name": self.name, **(own() if own else {})}

    def lost(self) -> int:
        return sum(self.describe().get(key, 0) for key in UNDELIVERED)

    def stop(self, seconds: float) -> None:
        self._sink.stop()


class Outlet:
    """Runs one sink.

    Attributes:
        name: The sink's kind.
        delivered, dropped, failed: Events given to it, events and news that a full queue pushed out, calls that raised.
        error: What the last failing call raised, without secrets.
        why: What a call raises that has not gone well since; "" where all is well.
    """

    def __init__(self, name: str, sink: Sink, about: About) -> None:
        self.name, self._sink, self._about = name, sink, about
        self.delivered = self.dropped = self.failed = self._failed_events = 0
        self.error = ""
        self._failing: dict[str, str] = {}
        self._events: deque[Event] = deque()
        self._news: deque[tuple[Tracked, tuple[str, ...]]] = deque(maxlen=WAITING)
        self._decision: Decision | None = None
        self._status: Mapping[str, Any] | None = None
        self._changed: About | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def decision(self, decision: Decision) -> None:
        with self._wake:
            self._decision = decision
            self._wake.notify()

    def event(self, event: Event) -> None:
        with self._wake:
            if len(self._events) >= WAITING:
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
            self._wake.notify()

    def tracked(self, news: Tracked, voted: tuple[str, ...]) -> None:
        with self._wake:
            self.dropped += len(self._news) == WAITING
            self._news.append((news, voted))
            self._wake.notify()

    def status(self, status: Mapping[str, Any]) -> None:
        with self._wake:
            self._status = status
            self._wake.notify()

    def changed(self, about: About) -> None:
        with self._wake:
            self._changed = about
            self._wake.notify()

    def describe(self) -> dict[str, Any]:
        own = getattr(self._sink, "describe", None)
        counts = {"delivered": self.delivered, "dropped": self.dropped, "failed": self.failed, "error": self.error}
        return {"name": self.name, "why": self.why, **counts, **(own() if own else {})}

    @property
    def why(self) -> str:
        return next(iter(self._failing.values()), "")

    def lost(self) -> int:
        """Events that were not delivered: to be asked for at the end."""
        said = self.describe()
        own = sum(int(said.get(key, 0)) for key in UNDELIVERED)
        return self.dropped + self._failed_events + len(self._events) + own

    def stop(self, seconds: float) -> None:
        """Let it deliver what waits, and end it."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        self._call(self._sink.start, self._about)
        while True:
            with self._wake:
                while not (self._events or self._news or self._decision or self._status or self._changed or self._stopping):
                    self._wake.wait()
                event = self._events.popleft() if self._events else None
                news = self._news.popleft() if self._news else None
                decision, self._decision = self._decision, None
                status, self._status = self._status, None
                changed, self._changed = self._changed, None
                stopping = self._stopping and not (self._events or self._news)
            if changed is not None:
                self._call(self._sink.changed, changed)
            if event is not None:
                well = self._call(self._sink.event, event)
                self.delivered, self._failed_events = self.delivered + well, self._failed_events + (not well)
            if news is not None:
                self._call(self._sink.tracked, *news)
            if decision is not None:
                self._call(self._sink.decision, decision)
            if status is not None:
                self._call(self._sink.status, status)
            if stopping:
                self._call(self._sink.stop)
                return

    def _call(self, do: Callable[..., None], *arguments: Any) -> bool:
        try:
            do(*arguments)
            self._failing.pop(do.__name__, None)
            return True
        except Exception as err:  # a sink may fail in any way of its library's; the loop and the other sinks go on
            self.failed, self.error = self.failed + 1, redact(f"{type(err).__name__}: {err}")
            self._failing[do.__name__] = self.error
            return False
