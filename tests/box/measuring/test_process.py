"""A worker's process: what it is given beside its commands."""

import time
from pathlib import Path

import pytest

from edgemm.box.devices import threads
from edgemm.box.measuring.process import WorkerProcess

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="reads a process's variables from /proc")


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def variables() -> dict[str, str]:
    """Of a running worker."""
    with WorkerProcess("one") as worker:
        given = Path(f"/proc/{worker.pid}/environ")
        end = time.monotonic() + 60
        while not (text := given.read_text()) and time.monotonic() < end:
            time.sleep(0.01)  # empty while the kernel is still laying out the new image
    return dict(line.split("=", 1) for line in text.split("\0") if line)


def test_the_threads_of_a_worker_sleep_while_they_wait():
    given = variables()
    assert (given["OMP_WAIT_POLICY"], given["KMP_BLOCKTIME"]) == ("PASSIVE", "0")


def test_a_users_own_waiting_reaches_the_worker(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    given = variables()
    assert given["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "KMP_BLOCKTIME" not in given


def test_a_limit_on_the_callers_threads_does_not_bind_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in variables()
