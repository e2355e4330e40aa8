"""What a long command is doing now: stage, bar and seconds, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

PLAIN_EVERY_S = 10.0  # how often a stage says where it is when stderr is a file: a log stays short, and a hang is seen


@dataclass(frozen=True)
class Stage:
    """A finished stage and what it took."""

    name: str
    seconds: float


class Progress:
    """Follows a run stage by stage. This one shows nothing; ``on_stderr`` gives one that does.

    ::

        with progress.stage("quantize"):
            progress.update("calibrating", 0.4)

    Attributes:
        finished: Stages that ended well, in that order.
    """

    def __init__(self) -> None:
        self.finished: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show ``name`` as running until the block ends. Stages may be nested."""
        began = time.perf_counter()
        self._begin(name)
        try:
            yield
        except BaseException:
            self._end(name, time.perf_counter() - began, failed=True)
            raise
        seconds = time.perf_counter() - began
        self.finished.append(Stage(name, seconds))
        self._end(name, seconds, failed=False)

    def update(self, text: str, fraction: float | None = None) -> None:
        """Say what the running stage does, and how much of it is done (0 to 1; None = unknown)."""

    def note(self, text: str) -> None:
        """Say one thing worth a line of its own ("export: reused")."""

    def _begin(self, name: str) -> None: ...

    def _end(self, name: str, seconds: float, *, failed: bool) -> None: ...

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Plain(Progress):
    """One line when a stage begins, one when it ends, and one every ten seconds between."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream, self._names, self._said = stream, [""], 0.0

    def update(self, text: str, fraction: float | None = None) -> None:
        if time.perf_counter() - self._said >= PLAIN_EVERY_S:
            share = "" if fraction is None else f" {fraction:.0%}"
            self.note(f"{self._names[-1]}:{share} {text}")

    def note(self, text: str) -> None:
        self._said = time.perf_counter()
        print(text, file=self._stream, flush=True)

    def _begin(self, name: str) -> None:
        self._names.append(name)
        self.note(f"{name} ...")

    def _end(self, name: str, seconds: float, *, failed: bool) -> None:
        self._names.pop()
        self.note(f"{name}: {'stopped after' if failed else 'done in'} {seconds:.1f} s")


class Live(Progress):
    """A bar a stage, redrawn in place; finished ones stay above the running one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        from rich.console import Console  # only a terminal pays for rich
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        text = TextColumn("[dim]{task.fields[text]}")
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.elapsed:6.1f} s"), text)
        self._bars = Bars(*columns, console=Console(file=stream))
        self._tasks: list[Any] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        if self._tasks:
            self._bars.update(self._tasks[-1], text=text, completed=fraction or 0.0, total=None if fraction is None else 1.0)

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def _begin(self, name: str) -> None:
        self._bars.start()
        self._tasks.append(self._bars.add_task("  " * len(self._tasks) + name, total=None, text=""))

    def _end(self, name: str, seconds: float, *, failed: bool) -> None:
        task = self._tasks.pop()
        self._bars.update(task, completed=0.0 if failed else 1.0, total=1.0, text="stopped" if failed else "")
        self._bars.stop_task(task)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()


def on_stderr() -> Progress:
    """Live bars when stderr is a terminal, plain lines when it is not."""
    return Live(sys.stderr) if sys.stderr.isatty() else Plain(sys.stderr)
