"""What else the box did while something was timed: other processes, stolen time, waiting for a core, a slower clock, throttling.

Everything is read from the kernel's own counters just before and just after; nothing runs in between. What a box does not tell is None
and disturbs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemm.box.devices import thermals
from edgemm.contracts.timing_parts import Seen
from edgemm.store.small_files import number, text

WAITED = 0.08  # of the time its threads wanted to run; wake-ups of two threads alone make 0.02
OTHERS = 0.10  # of all cores we may use
STOLEN = 0.02
SLOWER = 0.85  # of the fastest clock of the run; on a quiet virtual machine the loop below varies by 0.9 to 1
LEAST_TICKS = 2  # counters of /proc/stat move in ticks of 10 ms: less than two say nothing
LOOP, REPEATS = 4000, 8  # about 0.1 ms, the best of eight: one of them is not interrupted
PROC, CPU, THERMAL = Path("/proc"), Path("/sys/devices/system/cpu"), Path("/sys/class/thermal")


def reasons(seen: Seen, fastest_clock: float | None = None) -> list[str]:
    """Why what was timed meanwhile is not to be trusted, in words; [] when nothing disturbed it."""
    tick = LEAST_TICKS / (os.sysconf("SC_CLK_TCK") * max(seen.seconds, 1e-9) * len(allowed_cores()))
    words = []
    if seen.waited is not None and seen.waited > WAITED:
        words.append(f"waited for a core {_percent(seen.waited)} of its time")
    if seen.others is not None and seen.others > max(OTHERS, tick):
        words.append(f"other processes used {_percent(seen.others)} of the cores")
    if seen.stolen is not None and seen.stolen > max(STOLEN, tick):
        words.append(f"the hypervisor took {_percent(seen.stolen)} of the cores")
    if seen.clock and fastest_clock and seen.clock < SLOWER * fastest_clock:
        words.append(f"the clock ran at {_percent(seen.clock / fastest_clock)} of its speed")
    if seen.throttled:
        words.append("the processor was throttled")
    return words


class Watch:
    """Looks twice. ``Watch(pid)`` before, ``stop()`` after.

    Args:
        pids: The processes that are ours, with all that they started; this one always is, without.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = (os.getpid(), *pids)
        self._first = self._look()
        self._began = time.perf_counter()

    def stop(self) -> Seen:
        """What happened since the start."""
        seconds = time.perf_counter() - self._began
        before, after = self._first, self._look()
        cores = seconds * len(allowed_cores())
        ours = _difference(before.ours, after.ours) or 0.0
        busy, stolen = _difference(before.busy, after.busy), _difference(before.stolen, after.stolen)
        ran, waited = _difference(before.ran, after.ran), _difference(before.waited, after.waited)
        return Seen(
            seconds,
            others=None if busy is None else min(1.0, max(0.0, busy - ours) / cores),
            waited=None if waited is None or ran is None else waited / max(ran + waited, 1e-9),
            stolen=None if stolen is None else min(1.0, stolen / cores),
            clock=clock(),
            throttled=None if before.throttled is None or after.throttled is None else after.throttled - before.throttled,
            celsius=celsius(),
        )

    def _look(self) -> _Look:
        busy, stolen = _core_seconds(allowed_cores())
        own, *watched = self._pids
        timed = family(watched)
        ran, waited = _scheduled(timed) if len(timed) == 1 else (None, None)
        return _Look(busy, stolen, ran, waited, _processor_seconds([own, *timed]), _throttle_count())


@dataclass(frozen=True)
class _Look:
    busy: float | None
    stolen: float | None
    ran: float | None
    waited: float | None
    ours: float | None
    throttled: int | None


def family(pids: Iterable[int]) -> list[int]:
    """The processes and all that they started and that still run: a program that is measured may be a shell that starts another."""
    members = list(pids)
    for pid in members:  # which grows meanwhile
        for path in (PROC / str(pid) / "task").glob("*/children"):
            members += [int(word) for word in text(path).split()]
    return members


def allowed_cores() -> list[int]:
    """Numbers of the cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def clock() -> float:
    """Speed of the processor right now: the fastest core's MHz, or, where the kernel does not tell, rounds of a loop a microsecond."""
    readings = [number(CPU / f"cpu{core}" / "cpufreq" / "scaling_cur_freq") for core in allowed_cores()]
    speeds = [kilohertz for kilohertz in readings if kilohertz]
    return max(speeds) / 1e3 if speeds else _loop_speed()


def celsius() -> float | None:
    """The hottest thermal zone, where there is one."""
    readings = [number(path) for path in THERMAL.glob("thermal_zone*/temp")]
    temperatures = [value / 1e3 for value in readings if value]
    return max(temperatures) if temperatures else None


def _loop_speed() -> float:
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter_ns()
        for _ in range(LOOP):
            pass
        best = min(best, time.perf_counter_ns() - began)
    return LOOP * 1e3 / best


def _core_seconds(cores: Sequence[int]) -> tuple[float | None, float | None]:
    """Seconds since start that ``cores`` were busy, and that were stolen from them."""
    names = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in text(PROC / "stat").splitlines() if line.split(" ", 1)[0] in names]
    if not rows:
        return None, None
    tick = os.sysconf("SC_CLK_TCK")
    # user nice system idle iowait irq softirq steal; guests are counted in user already
    busy = sum(int(row[column]) for row in rows for column in (1, 2, 3, 6, 7))
    return busy / tick, sum(int(row[8]) for row in rows) / tick


def _processor_seconds(pids: Iterable[int]) -> float | None:
    """Processor time of whole processes, to the nanosecond: the clock that Linux keeps for each of them."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of another process
        except (OSError, OverflowError):
            continue  # it ended
    return total


def _scheduled(pids: Iterable[int]) -> tuple[float | None, float | None]:
    """Seconds that all threads of ``pids`` ran, and that they were ready but had no core."""
    ran = waited = 0.0
    has_counts = False
    for pid in pids:
        for path in (PROC / str(pid) / "task").glob("*/schedstat"):
            words = text(path).split()
            if len(words) == 3:
                ran, waited, has_counts = ran + int(words[0]) / 1e9, waited + int(words[1]) / 1e9, True
    return (ran, waited) if has_counts else (None, None)


def _throttle_count() -> int | None:
    readings = [number(path) for path in CPU.glob("cpu*/thermal_throttle/*_throttle_count")]
    counts = [int(value) for value in readings if value is not None] + list(thermals.events().values())
    return sum(counts) if counts else None


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
