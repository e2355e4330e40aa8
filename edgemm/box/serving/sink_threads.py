"""A thread for each sink: events wait in a bounded queue, of decisions only the newest; the loop never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edgemm.box.serving.secrets import redact
from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import About, Event, Sink

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

    def status(self, status: Mapping[str, Any]) -> None:
        self._sink.status(status)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def stop(self, seconds: float) -> None:
        self._sink.stop()


class Outlet:
    """Runs one sink.

    Attributes:
        name: The sink's kind.
        delivered, dropped, failed: Events given to it, events that a full queue pushed out, calls that raised.
        error: What the last failing call raised, without secrets.
    """

    def __init__(self, name: str, sink: Sink, about: About) -> None:
        self.name, self._sink, self._about = name, sink, about
        self.delivered = self.dropped = self.failed = 0
        self.error = ""
        self._events: deque[Event] = deque()
        self._decision: Decision | None = None
        self._status: Mapping[str, Any] | None = None
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

    def status(self, status: Mapping[str, Any]) -> None:
        with self._wake:
            self._status = status
            self._wake.notify()

    def describe(self) -> dict[str, Any]:
        own = getattr(self._sink, "describe", None)
        counts = {"delivered": self.delivered, "dropped": self.dropped, "failed": self.failed, "error": self.error}
        return {"name": self.name, **counts, **(own() if own else {})}

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
                while not (self._events or self._decision or self._status or self._stopping):
                    self._wake.wait()
                event = self._events.popleft() if self._events else None
                decision, self._decision = self._decision, None
                status, self._status = self._status, None
                stopping = self._stopping and not self._events
            if event is not None and self._call(self._sink.event, event):
                self.delivered += 1
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
            return True
        except Exception as err:  # a sink may fail in any way of its library's; the loop and the other sinks go on
            self.failed, self.error = self.failed + 1, redact(f"{type(err).__name__}: {err}")
            return False
