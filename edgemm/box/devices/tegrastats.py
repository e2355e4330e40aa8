"""Lines of NVIDIA's tegrastats, L4T 32 to 39.

What a line holds differs between releases, boards and users (without root there is no memory clock), so everything but the memory is
optional. Of the numbers of a rail the first is now, the second the mean since tegrastats began, the third (L4T 39) the highest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgemm.box.devices.rails import UNCONNECTED, total_mw
from edgemm.errors import MeasureError

DATE = re.compile(r"^\d\d-\d\d-\d{4} \d\d:\d\d:\d\d(?= )")
RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB\b")
SWAP = re.compile(r"\bSWAP (\d{1,9})/(\d{1,9})MB\b")
CORES = re.compile(r"\bCPU \[([^\]]*)\]")
CORE = re.compile(r"(\d{1,3})%@(\d{1,5})$")
LOAD = r"\b{name} (?:(\d{{1,3}})%)?(?:@(?:\[([\d,]*)\]|(\d{{1,5}})))?(?= |$)"
MEMORY_CLOCK, GPU = (re.compile(LOAD.format(name=name)) for name in ("EMC_FREQ", "GR3D_FREQ"))
TEMPERATURE = re.compile(r"(?<=\s)([A-Za-z][\w.-]*)@(-?\d{1,4}(?:\.\d+)?)C(?:/-?\d{1,4}(?:\.\d+)?C)?(?= |$)")
RAIL = re.compile(r"(?<=\s)([A-Za-z]\w*) (\d{1,7})(mW)?(?:/(\d{1,7})(?:mW)?)?(?:/(\d{1,7})(?:mW)?)?(?= |$)")
SENSIBLE_C = (-55.0, 150.0)  # a block that is off says -256
FIXED = "PMIC"  # says 100 degrees whatever happens (L4T 32)


@dataclass(frozen=True)
class Rail:
    """One rail's power in milliwatts: now, the mean since tegrastats began, the highest; None where the line does not tell."""

    now_mw: float
    mean_mw: float | None = None
    highest_mw: float | None = None


@dataclass(frozen=True)
class Core:
    """One processor core that is on."""

    load_percent: int
    mhz: int


@dataclass(frozen=True)
class Line:
    """What one line says.

    Attributes:
        date: As printed (``07-23-2026 15:29:27``), without a time zone; "" on L4T 32.
        ram_used_mib, ram_total_mib: Of the memory that processor and GPU share.
        cores: An entry a core; None = off.
        memory_load_percent, memory_mhz: Of the memory controller; None without root.
        gpu_load_percent: None on Thor.
        gpu_mhz: An entry a graphics cluster.
        celsius: Sensor -> degrees; blocks that are off are left out.
        rails: Label -> power.
    """

    ram_used_mib: int
    ram_total_mib: int
    date: str = ""
    swap_used_mib: int | None = None
    swap_total_mib: int | None = None
    cores: tuple[Core | None, ...] = ()
    memory_load_percent: int | None = None
    memory_mhz: int | None = None
    gpu_load_percent: int | None = None
    gpu_mhz: tuple[int, ...] = ()
    celsius: Mapping[str, float] = field(default_factory=dict)
    rails: Mapping[str, Rail] = field(default_factory=dict)

    @property
    def power_mw(self) -> float | None:
        """The board's power now; None where the line shows no rail."""
        return total_mw({label: rail.now_mw for label, rail in self.rails.items()})

    @property
    def hottest_celsius(self) -> float | None:
        return max((value for name, value in self.celsius.items() if name != FIXED), default=None)


def parse(line: str) -> Line:
    """Read one line.

    Raises:
        MeasureError: It is none of tegrastats': there is no memory in it, or more used than there is.
    """
    memory = RAM.search(line)
    if memory is None or int(memory[1]) > int(memory[2]) or int(memory[2]) == 0:
        shown = line.strip()[:80]
        raise MeasureError(
            f"'{shown}' is not a line of tegrastats.",
            why="it says nothing of the memory." if memory is None else f"{memory[1]} of {memory[2]} MB of memory cannot be in use.",
            fix="run tegrastats alone to see what it prints; anything else that writes there must go to stderr.",
        )
    swap, cores = SWAP.search(line), CORES.search(line)
    memory_load, memory_mhz = _load(MEMORY_CLOCK.search(line))
    gpu_load, gpu_mhz = _load(GPU.search(line))
    date = DATE.match(line)
    return Line(
        int(memory[1]),
        int(memory[2]),
        date=date[0] if date else "",
        swap_used_mib=int(swap[1]) if swap else None,
        swap_total_mib=int(swap[2]) if swap else None,
        cores=_cores(cores[1]) if cores else (),
        memory_load_percent=memory_load,
        memory_mhz=memory_mhz[0] if memory_mhz else None,
        gpu_load_percent=gpu_load,
        gpu_mhz=gpu_mhz,
        celsius=_temperatures(line),
        rails=_rails(line),
    )


def _load(match: re.Match[str] | None) -> tuple[int | None, tuple[int, ...]]:
    """Percent and MHz of one of ``n%``, ``n%@f``, ``n%@[f,f]``, ``@[f,f,f]``."""
    if match is None:
        return None, ()
    percent, several, one = match.groups()
    clocks = tuple(int(word) for word in (several or one or "").split(",") if word.isdigit())
    return (int(percent) if percent else None), clocks


def _cores(words: str) -> tuple[Core | None, ...]:
    cores: list[Core | None] = []
    for word in words.split(","):
        core = CORE.match(word.strip())
        if core:
            cores.append(Core(int(core[1]), int(core[2])))
        elif word.strip() == "off":
            cores.append(None)
    return tuple(cores)


def _temperatures(line: str) -> dict[str, float]:
    low, high = SENSIBLE_C
    return {match[1]: float(match[2]) for match in TEMPERATURE.finditer(line) if low <= float(match[2]) <= high}


def _rails(line: str) -> dict[str, Rail]:
    """Every rail; what has neither a unit nor a second number is a clock ("APE 174") or was cut off."""
    rails = {}
    for match in RAIL.finditer(line):
        name, now, unit, mean, highest = match.groups()
        if (unit or mean) and name != UNCONNECTED:
            rails[name] = Rail(float(now), float(mean) if mean else None, float(highest) if highest else None)
    return rails
