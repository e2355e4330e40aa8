"""A parent that starts a run again when it crashes, and when its heartbeat stops: for boxes without systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SILENT_S = 6.0  # without a beat (one a second) for so long the loop hangs; found and started again within 10 s
STARTING_S = 60.0  # until the first beat: a slow box unpacks and compiles
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 10.0
HEALTHY_S = 60.0
ENDED = (0, 3)  # exit codes of a run that is over: in good order, or with something that never came
MISTAKES = (1, 2)  # exit codes of a mistake in the settings: trying again would end the same way


@dataclass
class Supervision:
    """What happened.

    Attributes:
        starts: How often the child was started.
        hangs: How often it was killed because it was silent.
        never_came: Something that its last child was to read or to reach never was there; the child has said what.
    """

    starts: int = 0
    hangs: int = 0
    never_came: bool = False

    def to_dict(self) -> dict[str, int | bool]:
        return {"starts": self.starts, "hangs": self.hangs, "never_came": self.never_came}

    def __str__(self) -> str:
        return f"started {self.starts} times; {self.hangs} times it hung"


def supervise(
    command: Sequence[str],
    stop: threading.Event,
    *,
    silent_s: float = SILENT_S,
    on_start: Callable[[subprocess.Popen[bytes]], None] = lambda child: None,
    told: Supervision | None = None,
) -> int:
    """Keep ``command`` running until ``stop`` is set; its exit code where it ended by itself, without or before any beat with a mistake.

    Args:
        on_start: Gets every child, such as to pass signals on.
        told: Filled while it runs.
    """
    told = told or Supervision()
    wait_s = FIRST_WAIT_S
    with tempfile.TemporaryDirectory(prefix="edgemm-") as folder:
        socket_path = str(Path(folder) / "pulse")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(socket_path)
            ear.settimeout(0.25)
            while not stop.is_set():
                began = time.monotonic()
                child = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": socket_path})
                told.starts += 1
                on_start(child)
                code, was_ready = _watch(child, ear, stop, silent_s, told)
                if code in ENDED or (code in MISTAKES and not was_ready):
                    return code
                wait_s = FIRST_WAIT_S if time.monotonic() - began > HEALTHY_S else min(MOST_WAIT_S, wait_s * 2)
                stop.wait(wait_s)
    return 0


def _watch(
    child: subprocess.Popen[bytes], ear: socket.socket, stop: threading.Event, silent_s: float, supervision: Supervision
) -> tuple[int, bool]:
    """Until the child ends, by itself or by us; its exit code, and whether it was ever ready."""
    heard, is_ready = time.monotonic(), False
    while child.poll() is None:
        if stop.is_set():
            return _end(child), is_ready
        try:
            message = ear.recv(4096)
        except TimeoutError:
            message = b""
        if b"WATCHDOG=1" in message:
            heard, is_ready = time.monotonic(), is_ready or b"READY=1" in message
        if time.monotonic() - heard > (silent_s if is_ready else STARTING_S):
            supervision.hangs += 1
            child.kill()
            child.wait()
    return int(child.returncode), is_ready


def _end(child: subprocess.Popen[bytes]) -> int:
    child.send_signal(signal.SIGTERM)
    try:
        return child.wait(10.0)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
