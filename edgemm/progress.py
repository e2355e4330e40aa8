"""What a long command is doing now: stage, share and seconds, on stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

PLAIN_EVERY_S = 10.0  # a log stays short, and a hang is seen
STDERR = 2


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
        on_screen: Notes that stand on the terminal to which the result goes too.
    """

    def __init__(self) -> None:
        self.finished: list[Stage] = []
        self.on_screen: list[str] = []

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
    """For a file or a pipe: a line when a stage begins, one when it ends, and one every ten seconds between, whether it reports or not.

    Args:
        stream: Where the lines go.
        clock: Seconds, as ``time.monotonic``.
        look_s: How often a thread looks whether ten seconds are over.
    """

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic, look_s: float = 1.0) -> None:
        super().__init__()
        self._stream, self._clock, self._look_s = stream, clock, look_s
        self._running: list[_Running] = []
        self._said_s = clock()
        self._lock = threading.RLock()  # lines come from the stage's thread and from the one that looks
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look_again, name="progress", daemon=True)

    def update(self, text: str, fraction: float | None = None) -> None:
        with self._lock:
            if self._running:
                self._running[-1].says = f"{'' if fraction is None else f' {fraction:.0%}'} {text}"
                self._say_if_due()

    def note(self, text: str) -> None:
        with self._lock:
            self._said_s = self._clock()
            print(text, file=self._stream, flush=True)

    def _begin(self, name: str) -> None:
        with self._lock:
            self._running.append(_Running(name, self._clock()))
            self.note(f"{name} ...")

    def _end(self, name: str, seconds: float, *, failed: bool) -> None:
        with self._lock:
            self._running.pop()
            self.note(f"{name}: {'stopped after' if failed else 'done in'} {seconds:.1f} s")

    def _say_if_due(self) -> None:
        with self._lock:
            now = self._clock()
            if self._running and now - self._said_s >= PLAIN_EVERY_S:
                stage = self._running[-1]
                self.note(f"{stage.name}:{stage.says or ' running'}, {now - stage.began_s:.0f} s")

    def _look_again(self) -> None:
        while not self._over.wait(self._look_s):
            self._say_if_due()

    def __enter__(self) -> Progress:
        self._looking.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._looking.join()


@dataclass
class _Running:
    """A stage that runs, since when, and what it last reported."""

    name: str
    began_s: float
    says: str = ""


class Live(Progress):
    """For a terminal: a line a stage, redrawn in place while it runs; those of finished ones stay above it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        from rich.console import Console  # only a terminal pays for rich
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        name = TextColumn("{task.description}", table_column=Column(min_width=24))  # finished lines are laid out one by one
        bar, seconds = BarColumn(24), TextColumn("{task.elapsed:6.1f} s")
        text = TextColumn("[dim]{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis"))  # a line stays one line
        self._is_shared = sys.stdout is not None and sys.stdout.isatty()  # then what is printed goes above the lines
        self._bars = Bars(name, bar, seconds, text, console=Console(file=stream), redirect_stdout=self._is_shared)
        self._tasks: list[Any] = []

    def update(self, text: str, fraction: float | None = None) -> None:
        if self._tasks:
            self._bars.update(self._tasks[-1], text=text, completed=fraction or 0.0, total=None if fraction is None else 1.0)

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)
        self.on_screen += [text] if self._is_shared else []

    def _begin(self, name: str) -> None:
        self._bars.start()
        self._tasks.append(self._bars.add_task("  " * len(self._tasks) + name, total=None, text=""))

    def _end(self, name: str, seconds: float, *, failed: bool) -> None:
        """The line leaves the part that is redrawn, which must not outgrow the terminal: its lower end, where things happen, is cut off."""
        task = self._tasks.pop()
        self._bars.update(task, completed=0.0 if failed else 1.0, total=1.0, text="stopped" if failed else "")
        self._bars.stop_task(task)
        line = self._bars.make_tasks_table([each for each in self._bars.tasks if each.id == task])
        self._bars.remove_task(task)
        self._bars.console.print(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()


@contextmanager
def on_stderr() -> Iterator[Progress]:
    """Lines that update themselves when stderr is a terminal, plain ones when it is not."""
    with ExitStack() as stack:
        stream = sys.stderr
        with suppress(OSError, ValueError):  # no file behind it: a test's or a notebook's own stream
            # A second way to the same place: what silences libraries while they are imported turns the first one off.
            if stream.fileno() == STDERR:
                stream = stack.enter_context(os.fdopen(os.dup(STDERR), "w", encoding=stream.encoding, errors="replace", buffering=1))
        yield stack.enter_context(Live(stream) if stream.isatty() else Plain(stream))
