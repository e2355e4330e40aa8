"""One measurement at a time on a machine: others wait, a dead holder frees it, a silent one loses it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from edgemm.box.devices import exclusive
from edgemm.box.measuring.process import WorkerProcess
from edgemm.errors import MeasureError

HOLDS = """
import sys
from edgemm.box.devices import exclusive
exclusive.LEASE_S, exclusive.BEAT_S = float(sys.argv[1]), 0.05
try:
    with exclusive.measuring(lambda text: print("told", text, flush=True)) as waited:
        print("has it", waited, flush=True)
        sys.stdin.readline()
except exclusive.MeasureError as err:
    print(err.what, flush=True)
"""


@pytest.fixture
def device(tmp_path, monkeypatch):
    monkeypatch.setenv(exclusive.PLACE, str(tmp_path / "device"))
    return tmp_path / "device"


@pytest.fixture
def holder():
    """``holder(lease_s)``: another process that has the device until a line is written to it."""
    running = []

    def start(lease_s=30.0):
        process = subprocess.Popen([sys.executable, "-c", HOLDS, str(lease_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "has it False\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_second_one_waits_says_for_whom_and_has_the_device_after_the_first(device, holder):
    first, told = holder(), []
    asked = threading.Event()

    def tell(text):
        told.append(text)
        asked.set()

    def end():
        asked.wait(60)
        first.stdin.write("\n")
        first.stdin.flush()

    ending = threading.Thread(target=end)
    ending.start()
    with exclusive.measuring(tell) as waited:
        assert waited
        assert first.wait(60) == 0
    ending.join()
    assert told[0].startswith(f"another measurement (process {first.pid}, ")
    assert told[0].endswith(") has this device; waiting for it")


def test_a_killed_holder_frees_it(device, holder):
    first = holder()
    first.kill()
    first.wait()
    with exclusive.measuring() as waited:
        assert not waited


def test_one_that_fell_silent_loses_it_and_is_told_so(device, holder, monkeypatch):
    monkeypatch.setattr(exclusive, "LEASE_S", 1.0)
    first, told = holder(1.0), []
    os.kill(first.pid, signal.SIGSTOP)
    with exclusive.measuring(told.append) as waited:
        assert waited
    assert "has said nothing for 1 s; taking the device" in told[-1]
    os.kill(first.pid, signal.SIGCONT)
    output, _ = first.communicate("\n", timeout=60)
    assert "this process said nothing for 1 s while it measured, and another took the device." in output


def test_within_it_the_same_thread_may_measure_and_another_one_waits(device):
    order, told = [], []

    def other():
        with exclusive.measuring(told.append):
            order.append("other")

    with exclusive.measuring(), exclusive.measuring():
        waiting = threading.Thread(target=other)
        waiting.start()
        while not told:
            pass
        order.append("first")
    waiting.join()
    assert order == ["first", "other"]
    assert exclusive.descriptors() == ()


def test_a_worker_that_times_keeps_the_device_when_its_parent_is_gone(device):
    with exclusive.measuring():
        worker = WorkerProcess("timing", times=True)
        idle = WorkerProcess("answering")
        file = os.path.samestat
        lock = (device / exclusive.LOCK).stat()
        kept = [any(file(os.stat(f"/proc/{one.pid}/fd/{fd}"), lock) for fd in os.listdir(f"/proc/{one.pid}/fd")) for one in (worker, idle)]
        for one in (worker, idle):
            one.stop()
    assert kept == [True, False]


def test_where_it_cannot_be_locked_the_measuring_goes_on_and_says_so(device):
    device.write_text("a file")
    told = []
    with exclusive.measuring(told.append) as waited:
        assert not waited
    assert "cannot be locked (Not a directory): nothing keeps another measurement away" in told[0]


def test_the_error_of_a_lost_lease_says_to_measure_again(device):
    with pytest.raises(MeasureError, match=r"another took the device\.\n  why: .*\n  fix: measure again"), exclusive.measuring():
        (device / exclusive.LOCK).unlink()
