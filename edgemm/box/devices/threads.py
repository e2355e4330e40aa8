"""How OpenMP's threads wait for work: asleep after a few microseconds, unless the user says otherwise.

By default GNU's OpenMP (torch's wheel brings it) spins for milliseconds at the end of every layer, and LLVM's for 200. Beside other load
a thread that spins holds the core that the thread it waits for would need: two threads then crawl. To sleep at once costs a quiet machine
more than it should: an answer of a small model took 2.4 times as long, which would flatter whatever is timed beside it; with the short
spin 1.2 times (benchmarks/waiting_threads.py).
OpenVINO and ONNX Runtime have threads of their own, which these variables do not reach.
"""

from __future__ import annotations

import os
import sys

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""GNU's runtime reads the first two (rounds of about 10 ns before it sleeps); LLVM's and Intel's sleep at once by the third (ms)."""
VARIABLES = tuple(PASSIVE)
TOO_LATE = "threads wait as OpenMP does by default: torch was imported first; set OMP_WAIT_POLICY=PASSIVE before that."


def waiting() -> dict[str, str]:
    """The variables that a process started from here gets: the user's own, or ``PASSIVE`` where there are none."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)} or dict(PASSIVE)


def wait_passively() -> bool:
    """Have this process's threads wait so too; to be called before torch is imported, for its OpenMP reads this once.

    Returns:
        False where torch was imported before: its threads wait as they did, and the environment is left as it is.
    """
    if "torch" in sys.modules:
        return all(os.environ.get(name) == value for name, value in waiting().items())
    os.environ.update(waiting())
    return True
