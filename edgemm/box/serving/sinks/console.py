"""The terminal: one line an event, a line when inputs come or go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console as Terminal
from rich.markup import escape

from edgemm.contracts.decision import Decision, Incident, Reading
from edgemm.contracts.sink import About, Event, Sink

PLACES = ("console",)
BAR = 20  # characters of a full score
PATIENT_S = 3.0  # of waiting at the start: a second of sound takes a second to come


class Console(Sink):
    """Prints to stdout."""

    def __init__(self, *, every: bool = False) -> None:
        """
        Args:
            every: Also print every decision.
        """
        self._every = every
        self._terminal = Terminal(highlight=False, soft_wrap=True)
        self._voted: tuple[str, ...] | None = None
        self._downs: dict[str, str] = {}
        self._drifted = False
        self._waiting = ""

    def start(self, about: About) -> None:
        self._terminal.print(f"[bold]{escape(about.name)}[/bold]: {escape(about.model)} listens to {escape(', '.join(about.inputs))}")

    def decision(self, decision: Decision) -> None:
        voted = tuple(sorted(decision.known))  # a gate leaves out an input several times a second
        if voted != self._voted:
            if self._voted is not None or decision.stood_in:
                missing = f"; standing in for {', '.join(decision.stood_in)}" if decision.stood_in else ""
                self._say(decision.wall_s, f"[yellow]voting: {escape(', '.join(decision.known) + missing)}[/yellow]")
            self._voted = voted
        if self._every:
            self._say(decision.wall_s, "  ".join(_words(name, reading) for name, reading in decision.readings.items()))
        else:
            for name, reading in decision.readings.items():
                if reading.moved:
                    self._say(decision.wall_s, _words(name, reading))

    def event(self, event: Event) -> None:
        if event.gate:
            done = "opens" if event.gate.kind == "gate_opened" else "shuts again"
            self._say(event.wall_s, f"[yellow]the gate of {escape(event.gate.input)} {done}: {escape(event.gate.why)}[/yellow]")
            return
        bar = "█" * round(max(0.0, min(1.0, event.score)) * BAR)
        expected = f", right in {event.expected:.0%} of cases" if event.expected is not None and event.stood_in else ""
        who = f"{', '.join(event.voted)}{expected}"
        done = f" {escape(_done(event.incident))}" if event.incident else ""
        label = f"{'looks like ' if event.is_like else ''}[bold green]{escape(event.label)}[/bold green]"
        self._say(event.wall_s, f"{label}{done} {event.score:.2f} {bar} [dim]{escape(who)}[/dim]")

    def status(self, status: Mapping[str, Any]) -> None:
        downs = {source["name"]: source["error"] for source in status["sources"] if source["state"] == "down"}
        downs |= {sink["name"]: sink["why"] for sink in status.get("sinks", ()) if sink.get("why")}
        for name, error in downs.items():
            if name not in self._downs:
                words = f"{name} is down: {error.rstrip('.')}; it is tried again"
                self._say(status["wall_s"], f"[red]{escape(words)}[/red]")
        for name in self._downs.keys() - downs.keys():
            self._say(status["wall_s"], f"{escape(name)} is back")
        self._downs = downs
        waiting = status["why"] if status.get("state") == "waiting" and status.get("uptime_s", 0) > PATIENT_S else ""
        if waiting and waiting != self._waiting:
            self._say(status["wall_s"], f"[yellow]waiting: {escape(waiting)}[/yellow]")
        self._waiting = waiting
        if status["drift"]["recalibrate"] and not self._drifted:
            self._say(status["wall_s"], f"[yellow]the model should be calibrated anew: {escape(status['drift']['why'])}[/yellow]")
        self._drifted = status["drift"]["recalibrate"]

    def _say(self, wall_s: float, text: str) -> None:
        clock = datetime.fromtimestamp(wall_s).strftime("%H:%M:%S")
        self._terminal.print(f"[dim]{clock}[/dim]  {text}")


def _done(incident: Incident) -> str:
    """What something did, and who: "entered door (9f3a)"."""
    place = "" if incident.place is None else f" {incident.place}"
    side = f" to the {incident.side}" if incident.side else ""
    kind = "loitering at" if incident.kind == "loitering" else incident.kind
    return f"{kind}{place}{side} ({incident.track.id[-4:]})"


def _words(name: str, reading: Reading) -> str:
    if reading.tracks is not None:
        counts = Counter(track.label for track in reading.tracks)
        return f"{escape(name)} {escape(', '.join(f'{number} {label}' for label, number in counts.items())) or 'nothing'}"
    if reading.scores is None:
        return f"{escape(name)} {reading.value:.4g}{f' {escape(reading.unit)}' if reading.unit else ''}"
    best = max(reading.scores, key=reading.scores.__getitem__)
    return f"{escape(name)} {escape(reading.label or best)} {reading.scores[best]:.2f}"
