"""What else the box did is seen: a neighbour that takes our core, one beside us, a slower clock."""

import subprocess
import sys
import time

import pytest

from edgemm.box.devices.disturbance import Watch, _processor_seconds, allowed_cores, clock, family, reasons
from edgemm.contracts.timing_parts import Seen

BURN = "while True: pass"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the counters are Linux's")


@pytest.fixture
def burners():
    """``burners(n)``: n processes that never rest."""
    started = []

    def start(count):
        started.extend(subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count))
        time.sleep(0.2)
        return started

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_process_that_shares_our_core_is_seen_as_waiting(burners):
    ours, *_ = burners(2 + len(allowed_cores()))
    watch = Watch(ours.pid)
    time.sleep(0.5)
    seen = watch.stop()
    assert seen.waited > 0.08
    assert any(reason.startswith("waited for a core") for reason in reasons(seen))


def test_others_are_told_from_ours(burners):
    ours, other = burners(2)
    watch = Watch(ours.pid, other.pid)
    time.sleep(0.3)
    both = watch.stop().others
    watch = Watch(ours.pid)
    time.sleep(0.3)
    assert watch.stop().others > both + 0.05


def test_a_short_look_does_not_trust_coarse_counters():
    assert reasons(Seen(0.02, others=0.9 / len(allowed_cores()))) == []
    assert reasons(Seen(2.0, others=0.5)) == ["other processes used 50 % of the cores"]
    assert reasons(Seen(2.0, stolen=0.1)) == ["the hypervisor took 10 % of the cores"]


def test_a_clock_that_fell_and_throttling_are_reasons():
    assert reasons(Seen(1.0, clock=800.0), 1000.0) == ["the clock ran at 80 % of its speed"]
    assert reasons(Seen(1.0, clock=950.0), 1000.0) == []
    assert reasons(Seen(1.0, throttled=2)) == ["the processor was throttled"]


def test_what_a_box_does_not_tell_disturbs_nothing():
    assert reasons(Seen(1.0), 1000.0) == []


def test_the_clock_has_a_speed_and_a_watch_that_saw_nothing_of_a_gone_process_still_ends():
    assert clock() > 0
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    seen = Watch(process.pid).stop()
    assert seen.waited is None
    assert seen.seconds >= 0


def test_what_a_measured_program_starts_belongs_to_it_and_its_handing_over_is_no_waiting():
    """A shell that starts the program that works: its processor time is the program's, and nobody else's."""
    lines = [
        "import time",
        "input()",
        "end = time.process_time() + 0.3",
        "while time.process_time() < end: pass",
        "print(flush=True)",
        "input()",
    ]
    words = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, "\n".join(lines)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        watch, before = Watch(shell.pid), _processor_seconds(family([shell.pid]))
        print(file=shell.stdin, flush=True)
        shell.stdout.readline()
        assert len(family([shell.pid])) == 2
        assert _processor_seconds(family([shell.pid])) - before > 0.25
        assert watch.stop().waited is None
        print(file=shell.stdin, flush=True)
