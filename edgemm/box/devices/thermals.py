"""Heat, and what the board does about it: temperatures, throttling, and events of too much current or too little voltage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemm.store.small_files import ROOT, number, text

SENSIBLE_C = (-55.0, 150.0)  # a block that is off says -256
EVENTS = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "peak over-current"}
"""Counters of ``soctherm_oc``. Orin Nano in its highest mode may count thousands an hour."""


@dataclass(frozen=True)
class Thermals:
    """One look.

    Attributes:
        celsius: Thermal zone -> degrees; zones that are off or cannot be read are left out.
        throttling: Names of cooling devices that slow the box down right now.
        events: Why -> how often since the start of the system; only differences mean something.
        critical_celsius: The lowest trip point of kind ``critical``.
    """

    celsius: Mapping[str, float] = field(default_factory=dict)
    throttling: tuple[str, ...] = ()
    events: Mapping[str, int] = field(default_factory=dict)
    critical_celsius: float | None = None

    @property
    def hottest(self) -> float | None:
        return max(self.celsius.values(), default=None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"hottest_celsius": self.hottest}


def look(root: Path = ROOT) -> Thermals:
    """What the sensors say now."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    celsius = {text(zone / "type") or zone.name: value for zone in zones if (value := _celsius(zone / "temp")) is not None}
    critical = [
        value
        for zone in zones
        for kind in sorted(zone.glob("trip_point_*_type"))
        if text(kind) == "critical" and (value := _celsius(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
    ]
    return Thermals(celsius, throttling(root), events(root), min(critical, default=None))


def throttling(root: Path = ROOT) -> tuple[str, ...]:
    """Cooling devices of a kind that throttles, at work now."""
    at_work = []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = text(device / "type")
        if "throttle" in kind.lower() and (number(device / "cur_state") or 0) > 0:
            at_work.append(kind)
    return tuple(at_work)


def events(root: Path = ROOT) -> dict[str, int]:
    """Events of the board's over-current protection since the start; {} where it has none."""
    counts: dict[str, int] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if text(folder / "name") == "soctherm_oc":
            for key, why in EVENTS.items():
                count = number(folder / f"{key}_event_cnt")
                if count is not None:
                    counts[why] = counts.get(why, 0) + int(count)
    return counts


def since(before: Thermals, after: Thermals) -> dict[str, int]:
    """Events between two looks, only those that happened."""
    return {why: count - before.events.get(why, 0) for why, count in after.events.items() if count > before.events.get(why, 0)}


def told(before: Thermals, after: Thermals) -> list[str]:
    """What a reader of the figures that were taken in between must know, one sentence each."""
    sentences = [
        f"While this was measured the board's current limit acted ({count} of {why})." for why, count in since(before, after).items()
    ]
    slowed = dict.fromkeys([*before.throttling, *after.throttling])
    return sentences + ([f"The board was throttled while this was measured ({', '.join(slowed)})."] if slowed else [])


def _celsius(path: Path) -> float | None:
    """Degrees of a file in thousandths of them; None for what is off or cannot be read."""
    value = number(path)
    return value / 1e3 if value is not None and SENSIBLE_C[0] <= value / 1e3 <= SENSIBLE_C[1] else None
