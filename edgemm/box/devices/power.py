"""Energy meters: Intel's and AMD's RAPL counters, the supply rails of Jetson boards, tegrastats. What cannot be read is unknown."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from edgemm.box.devices.rails import HWMON, Rail, find_rails, total_mw, whole
from edgemm.box.devices.tegrastats import rails_mw
from edgemm.errors import MeasureError
from edgemm.store.small_files import number as _number

POWERCAP = Path("/sys/class/powercap")
TEGRASTATS = "tegrastats"
EVERY_S = 0.05  # a monitor's own conversion takes 1 to 35 ms; a look at one rail costs two reads of I2C
INTERVAL_MS = 100  # of tegrastats
FIRST_S = 2.0  # tegrastats prints its first line after one interval; a slow box may need longer to start it
KEPT = 20_000  # samples: 16 minutes at EVERY_S


class Meter(Protocol):
    """Energy between ``start`` and ``stop_mj`` in millijoules; None when the sensor gave nothing meanwhile.

    Attributes:
        covers: What of the box it sees, in words.
    """

    covers: str

    def start(self) -> None: ...

    def stop_mj(self) -> float | None: ...


def open_meter(powercap: Path = POWERCAP, hwmon: Path = HWMON, tegrastats: str = TEGRASTATS) -> tuple[Meter | None, str]:
    """The best meter that can be read here, or None; and what it covers, or why there is none."""
    counters = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
    readable = [path for path in counters if _number(path / "energy_uj") is not None]
    if readable:
        return Rapl(readable), Rapl.covers
    rails = find_rails(hwmon)
    if rails:
        board = BoardMeter(rails)
        return board, board.covers
    command = shutil.which(tegrastats)
    if command:
        listener = Tegrastats(command)
        if listener.prints_power():
            return Tegrastats(command), listener.covers
        return None, "energy is unknown: tegrastats is here but prints no power; run it by hand to see why."
    if counters:
        return None, "energy is unknown: the RAPL counters may only be read by root here (chmod a+r /sys/class/powercap/*/energy_uj)."
    return None, "energy is unknown: this box shows no power sensor (RAPL, INA3221, INA238 or tegrastats)."


class Rapl:
    """Running energy counters of the processor packages."""

    covers = "energy of the processor packages (RAPL), idle power included"

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._first: list[float] = []

    def start(self) -> None:
        self._first = [_number(folder / "energy_uj") or 0.0 for folder in self._folders]

    def stop_mj(self) -> float:
        total = 0.0
        for folder, first in zip(self._folders, self._first, strict=True):
            used = (_number(folder / "energy_uj") or 0.0) - first
            total += used if used >= 0 else used + (_number(folder / "max_energy_range_uj") or 0.0)  # the counter began anew
        return total / 1e3


class Sampled:
    """Energy from samples of the power: trapezoids between them, and each end held where the time goes past it."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._milliwatts: list[float] = []
        self._lock = threading.Lock()
        self._began = 0.0

    def add(self, at_s: float, milliwatts: float) -> None:
        """One sample; times must not fall."""
        with self._lock:
            self._times.append(at_s)
            self._milliwatts.append(milliwatts)
            if len(self._times) > KEPT:
                del self._times[: KEPT // 2], self._milliwatts[: KEPT // 2]

    def energy_mj(self, began_s: float, ended_s: float) -> float | None:
        """Millijoules between two times; None without any sample."""
        with self._lock:
            times, values = list(self._times), list(self._milliwatts)
        return integrate(times, values, began_s, ended_s)


def integrate(times_s: Sequence[float], milliwatts: Sequence[float], began_s: float, ended_s: float) -> float | None:
    """Millijoules between two times of a power that was sampled at ``times_s`` (rising); None without any sample."""
    if not times_s:
        return None

    def at(time_s: float) -> float:
        index = bisect_left(times_s, time_s)
        if index == 0 or index == len(times_s):
            return milliwatts[min(index, len(times_s) - 1)]
        left, right = times_s[index - 1], times_s[index]
        share = (time_s - left) / (right - left) if right > left else 0.0
        return milliwatts[index - 1] + share * (milliwatts[index] - milliwatts[index - 1])

    inner = range(bisect_right(times_s, began_s), bisect_left(times_s, ended_s))
    points = [(began_s, at(began_s)), *((times_s[index], milliwatts[index]) for index in inner), (ended_s, at(ended_s))]
    return sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in itertools.pairwise(points))


class BoardMeter(Sampled):
    """The supply rails of a board, looked at every ``EVERY_S`` seconds by a thread of this process."""

    covers = "energy of the board's supply rails (INA monitors), idle power included"

    def __init__(self, rails: Sequence[Rail]) -> None:
        super().__init__()
        counted = whole([rail.label for rail in rails])
        self._rails = [rail for rail in rails if rail.label in counted]
        self.covers = f"{self.covers}: {', '.join(counted)}"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        self._look()
        self._began = time.perf_counter()

    def stop_mj(self) -> float | None:
        ended = time.perf_counter()
        self._look()
        return self.energy_mj(self._began, ended)

    def power_mw(self) -> float | None:
        """Power now; None while a rail cannot be read."""
        shown = [rail.read_mw() for rail in self._rails]
        return None if None in shown else sum(value for value in shown if value is not None)

    def _watch(self) -> None:
        while True:
            time.sleep(EVERY_S)
            self._look()

    def _look(self) -> None:
        milliwatts = self.power_mw()
        if milliwatts is not None:
            self.add(time.perf_counter(), milliwatts)


class Tegrastats(Sampled):
    """The power that tegrastats prints, where the rails themselves cannot be read. It ends with the process that started it.

    Lines that cannot be read, or that were cut off (they show fewer rails than the one before), are passed over.
    """

    covers = "energy of the board's supply as tegrastats prints it, idle power included"

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = [command, "--interval", str(INTERVAL_MS)]
        self._process: subprocess.Popen[str] | None = None
        self._known: set[str] = set()
        self._first = threading.Event()

    def prints_power(self) -> bool:
        """Whether it shows a rail within ``FIRST_S`` seconds."""
        self.start()
        self.close()
        return self._first.is_set()

    def start(self) -> None:
        """Start listening, and wait for the first line that shows power."""
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace")
            assert self._process.stdout is not None
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        self._first.wait(FIRST_S)
        self._began = time.perf_counter()

    def stop_mj(self) -> float | None:
        return self.energy_mj(self._began, time.perf_counter())

    def close(self) -> None:
        """End it; ``start`` begins anew."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listen(self, lines: IO[str]) -> None:
        with lines:
            for words in lines:
                self._hear(words, time.perf_counter())

    def _hear(self, words: str, at_s: float) -> None:
        try:
            rails = rails_mw(words)
        except MeasureError:
            return
        power_mw = total_mw(rails)
        if power_mw is not None and self._known <= set(rails):
            self._known |= set(rails)
            self.add(at_s, power_mw)
            self._first.set()
