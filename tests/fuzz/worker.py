"""A process that tries inputs, one after the other; a new one takes its place when it dies or hangs."""

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_S = 60  # the slowest input takes 5 s beside a busy machine
ADDRESS_SPACE = 12 << 30  # torch and a runtime map about 4 GiB; a size out of a mutated file must not take the machine's memory
STARTING_S = 120


class Worker:
    """Tries inputs in a process of its own. A context manager."""

    def __init__(self, cache: Path) -> None:
        self._cache, self._errors = cache, cache.with_name("stderr")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, kind: str, folder: Path) -> dict[str, Any]:
        """The outcome of an input, as ``entries.Outcome.to_dict`` has it."""
        if self._process is None:
            self._start()
        answer = self._ask({"kind": kind, "folder": str(folder)}, LIMIT_S)
        if isinstance(answer, str):
            text = self._errors.read_text(encoding="utf-8", errors="replace")[-2000:]
            return {"code": -1, "error": "death", "text": text, "findings": [answer], "place": answer}
        return answer

    def _start(self) -> None:
        environment = {**os.environ, "EDGEMM_CACHE": str(self._cache), "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1"}
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker"], cwd=ROOT, env=environment, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert self._ask(None, STARTING_S) == {"ready": True}, "the worker does not start"

    def _ask(self, question: Any, limit_s: float) -> Any:
        """Its next answer, or words saying why there is none."""
        process = self._process
        assert process is not None
        if question is not None:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(limit_s) else None
        if line:
            return json.loads(line)
        why = f"it hangs: no end after {limit_s} s" if line is None else f"the process died of {_cause(process.wait())}"
        self._end()
        return why

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group: edgemm's workers too
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _main() -> None:
    """Answers on what was stdout; whatever edgemm and libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tests.fuzz import entries  # takes seconds, and is wanted in this process alone

    answers.write(b'{"ready": true}\n')
    for line in sys.stdin.buffer:
        question = json.loads(line)
        outcome = entries.run(question["kind"], Path(question["folder"]))
        answers.write(json.dumps(outcome.to_dict()).encode() + b"\n")


if __name__ == "__main__":
    _main()
