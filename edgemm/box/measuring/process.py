"""The scheduler's end of a worker process: start, ask, wait with a limit, end; the child's own words when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from edgemm import errors
from edgemm.box.devices import exclusive, threads
from edgemm.errors import EdgemmError, MeasureError

ENVIRONMENT: dict[str, str | None] = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's own threads have nothing to do in a worker
    "OMP_NUM_THREADS": None,  # a limit meant for the caller must not bind the candidate
    "MKL_NUM_THREADS": None,
    "PYTHONUNBUFFERED": "1",
}
"""Variables of a worker; None = removed. Beside them ``threads.waiting``: what spins after its work spins into the next worker's turn."""


class WorkerProcess:
    """A running worker. Ends it on exit, in whatever state it is.

    Args:
        name: Whom it works for, as errors say it.
        module: What it runs; speaks as ``edgemm.box.measuring.worker`` does.
        doing: What errors say was done meanwhile.
        variables: Of its environment; None = removed.
        times: Whether it times something, and so keeps the device as long as it lives.

    Attributes:
        started: ``time.perf_counter()`` just before the launch.
    """

    def __init__(
        self, name: str, *, module: str = "edgemm.box.measuring.worker", doing: str = "it was measured",
        variables: Mapping[str, str | None] = MappingProxyType(ENVIRONMENT), times: bool = False,
    ) -> None:  # fmt: skip
        self.name, self._doing = name, doing
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()
        environment = {**os.environ, **threads.waiting(), **variables}
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={key: value for key, value in environment.items() if value is not None},
            pass_fds=exclusive.descriptors() if times else (),
        )  # fmt: skip
        assert self._process.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._buffer = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, *, limit_s: float, progress: Callable[[int], None] | None = None, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Args:
            limit_s: Longest silence allowed; a progress line starts it anew.

        Raises:
            EdgemmError: What the worker raised, of the same kind.
            MeasureError: It crashed (with its stderr), or was silent for ``limit_s``.
        """
        self.send(do, **arguments)
        return self.receive(limit_s=limit_s, progress=progress)

    def send(self, do: str, **arguments: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: receive() says so with its last words
            self._process.stdin.write(json.dumps({"do": do, "with": arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, *, limit_s: float, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        while True:
            answer: dict[str, Any] = json.loads(self._line(limit_s))
            if "progress" not in answer:
                break
            if progress:
                progress(int(answer["progress"]))
        if "error" in answer:
            raise self._error(answer["error"])
        return answer

    def stop(self) -> None:
        """End the process: ask, then kill. Safe to call twice."""
        if self.is_alive:
            self.send("stop")
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(OSError):
                    stream.close()
        self._selector.close()
        self._errors.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _line(self, limit_s: float) -> bytes:
        end = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            if not self._selector.select(timeout=max(0.0, end - time.monotonic())):
                self.kill()
                raise MeasureError(
                    f"'{self.name}' did not answer within {limit_s:.0f} s.",
                    why=self._last_words() or "it hung; its process was ended.",
                    fix="try it alone, or with fewer threads; the other candidates were measured.",
                )
            piece = os.read(self._process.stdout.fileno(), 1 << 16)  # type: ignore[union-attr]
            if not piece:
                raise self._died()
            self._buffer += piece
            end = time.monotonic() + limit_s
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> MeasureError:
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return MeasureError(
            f"'{self.name}' crashed while {self._doing} ({how}).",
            why=self._last_words() or "it said nothing.",
            fix="run it alone to see whether the runtime or the model is at fault; what else was asked for was done.",
        )

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()

    def _error(self, plain: Mapping[str, str]) -> EdgemmError:
        kind = getattr(errors, plain["kind"], None) if plain["kind"] else None
        if kind is None:
            what, fix = f"'{self.name}' failed while {self._doing}.", "this is a fault in edgemm or in a plugin; please report it."
            return MeasureError(what, why=plain["what"].strip(), fix=fix)
        error: EdgemmError = kind(f"'{self.name}': {plain['what']}", why=plain["why"], fix=plain["fix"])
        return error
