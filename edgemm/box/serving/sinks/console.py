"""The terminal: one line an event, a line when inputs come or go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console as Terminal
from rich.markup import escape

from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import About, Event, Sink

PLACES = ("console",)
BAR = 20  # characters of a full score


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

    def start(self, about: About) -> None:
        self._terminal.print(f"[bold]{escape(about.name)}[/bold]: {escape(about.model)} listens to {escape(', '.join(about.inputs))}")

    def decision(self, decision: Decision) -> None:
        if decision.voted != self._voted:
            if self._voted is not None or decision.stood_in:
                missing = f"; standing in for {', '.join(decision.stood_in)}" if decision.stood_in else ""
                self._say(decision.wall_s, f"[yellow]voting: {escape(', '.join(decision.voted) + missing)}[/yellow]")
            self._voted = decision.voted
        if self._every:
            self._say(decision.wall_s, "  ".join(_words(name, reading) for name, reading in decision.readings.items()))
        else:
            for name, reading in decision.readings.items():
                if reading.moved:
                    self._say(decision.wall_s, _words(name, reading))

    def event(self, event: Event) -> None:
        bar = "█" * round(max(0.0, min(1.0, event.score)) * BAR)
        expected = f", right in {event.expected:.0%} of cases" if event.expected is not None and event.stood_in else ""
        who = f"{', '.join(event.voted)}{expected}"
        self._say(event.wall_s, f"[bold green]{escape(event.label)}[/bold green] {event.score:.2f} {bar} [dim]{escape(who)}[/dim]")

    def status(self, status: Mapping[str, Any]) -> None:
        downs = {source["name"]: source["error"] for source in status["sources"] if source["state"] == "down"}
        for name, error in downs.items():
            if name not in self._downs:
                self._say(status["wall_s"], f"[red]{escape(f'{name} is down: {error}')}[/red]")
        for name in self._downs.keys() - downs.keys():
            self._say(status["wall_s"], f"{escape(name)} is back")
        self._downs = downs
        if status["drift"]["recalibrate"] and not self._drifted:
            self._say(status["wall_s"], f"[yellow]the model should be calibrated anew: {escape(status['drift']['why'])}[/yellow]")
        self._drifted = status["drift"]["recalibrate"]

    def stop(self) -> None:
        pass  # every line is out already

    def _say(self, wall_s: float, text: str) -> None:
        clock = datetime.fromtimestamp(wall_s).strftime("%H:%M:%S")
        self._terminal.print(f"[dim]{clock}[/dim]  {text}")


def _words(name: str, reading: Any) -> str:
    if reading.scores is None:
        return f"{escape(name)} {reading.value:.4g}{f' {escape(reading.unit)}' if reading.unit else ''}"
    best = max(reading.scores, key=lambda label: reading.scores[label])
    return f"{escape(name)} {escape(reading.label or best)} {reading.scores[best]:.2f}"
