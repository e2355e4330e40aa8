"""Any program as a candidate: it reads a JSON object a line on stdin and answers each with a JSON object a line on stdout.

``{"feed": "x.npz", "out": "y.npz"}`` means: read the inputs (one array per input, by name), run, write the outputs (by name), answer.
``{}`` means: run once more on the same inputs, answer. The answer is ``{}``; ``{"precision": "int8"}`` says what ran, ``{"error": "..."}``
what went wrong. Both files are gone after the answer. At the end of stdin the program ends. docs/measuring.md has one in ten lines.

The time of a run is that between the line written and the line read: it includes two passes through a pipe, about 20 microseconds.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.specs import TensorSpec
from edgemm.contracts.target import Session
from edgemm.errors import MeasureError, TargetError
from edgemm.store import json_text


class CommandSession(Session):
    """A running program that speaks the protocol above.

    Args:
        command: Its words, as in a shell.
        folder: Where arrays are handed over; None = the system's folder for such.

    Attributes:
        pid: Of the program.

    Raises:
        TargetError: It cannot be started.
    """

    def __init__(self, command: str, folder: Path | None = None) -> None:
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []
        self._command, self._folder = command, folder
        self._precision = "unknown"
        self._feed: Mapping[str, np.ndarray] | None = None
        self._answers: dict[str, np.ndarray] = {}
        try:
            self._process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except (OSError, ValueError, IndexError) as err:
            raise TargetError(f"the command '{command}' cannot be started.", why=str(err), fix="try it in a shell first.") from err

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if feed is self._feed:
            self._ask({})
            return self._answers
        with tempfile.TemporaryDirectory(prefix="edgemm-", dir=self._folder) as folder:
            feed_path, out = Path(folder) / "feed.npz", Path(folder) / "out.npz"
            np.savez(feed_path, **dict(feed))  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array
            self._ask({"feed": str(feed_path), "out": str(out)})
            if not out.is_file():
                raise self._wrong("it wrote no outputs.", 'write them by name to the file called "out", as numpy.savez does.')
            with np.load(out, allow_pickle=False) as arrays:
                self._answers = {name: arrays[name] for name in arrays.files}
        self._feed = feed
        return self._answers

    def precision(self) -> str:
        """What the program says, or ``unknown``."""
        return self._precision

    def close(self) -> None:
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, question: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        try:
            answer = json_text.loads(line)
            self._precision = str(answer.get("precision", self._precision))
        except (ValueError, AttributeError):
            text = line.decode(errors="replace").strip()[:80]
            raise self._wrong(f"it answered '{text}'.", "print one JSON object a line on stdout and nothing else.") from None
        if "error" in answer:
            raise self._wrong(str(answer["error"]), "mend the program; run it alone to see more.")

    def _ended(self) -> MeasureError:
        code = self._process.wait()
        return MeasureError(
            f"the command '{self._command}' ended before it answered (exit code {code}).",
            why="its own words, if any, stand above.",
            fix="it must answer every line on stdin with a line on stdout, and end with stdin.",
        )

    def _wrong(self, why: str, fix: str) -> MeasureError:
        return MeasureError(f"the command '{self._command}' does not speak the protocol.", why=why, fix=fix)
