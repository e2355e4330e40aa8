"""Power sensors: Intel's and AMD's RAPL counters, and the INA3221 monitors of Jetson boards. What cannot be read is unknown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
HWMON = Path("/sys/class/hwmon")


class Meter(Protocol):
    """Energy between ``start`` and ``stop_mj``. ``covers`` says what of the box it sees, in words."""

    covers: str

    def start(self) -> None: ...

    def stop_mj(self) -> float: ...


def open_meter(powercap: Path = POWERCAP, hwmon: Path = HWMON) -> tuple[Meter | None, str]:
    """The best meter that can be read here, or None; and what it covers, or why there is none."""
    counters = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)
    readable = [path for path in counters if _number(path / "energy_uj") is not None]
    if readable:
        meter = Rapl(readable)
        return meter, meter.covers
    monitors = [path for path in sorted(hwmon.glob("hwmon*")) if _word(path / "name") == "ina3221"]
    rails = [(path, place) for path in monitors for place in (1, 2, 3) if _number(path / f"curr{place}_input") is not None]
    if rails:
        board = Ina3221(rails)
        return board, board.covers
    if counters:
        return None, "energy is unknown: the RAPL counters may only be read by root here (chmod a+r /sys/class/powercap/*/energy_uj)."
    return None, "energy is unknown: this box shows no power sensor (RAPL or INA3221)."


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


class Ina3221:
    """Voltage and current of a board's supply rails: the mean of the power before and after, times the time between.

    The first rail of a Jetson's monitor is the whole board's input (VDD_IN); it alone is counted where it is labelled so.
    """

    covers = "energy of the board's supply (INA3221), idle power included, from the power before and after"

    def __init__(self, rails: list[tuple[Path, int]]) -> None:
        whole = [(path, place) for path, place in rails if _word(path / f"in{place}_label") == "VDD_IN"]
        self._rails = whole or rails
        self._first_mw, self._began = 0.0, 0.0

    def start(self) -> None:
        self._first_mw, self._began = self._power_mw(), time.perf_counter()

    def stop_mj(self) -> float:
        seconds = time.perf_counter() - self._began
        return (self._first_mw + self._power_mw()) / 2 * seconds

    def _power_mw(self) -> float:
        pairs = [(_number(path / f"in{place}_input"), _number(path / f"curr{place}_input")) for path, place in self._rails]
        return sum((millivolts or 0.0) * (milliamperes or 0.0) / 1e3 for millivolts, milliamperes in pairs)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text().strip())
    except (OSError, ValueError):
        return None


def _word(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
