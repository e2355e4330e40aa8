"""Supply rails of a board: which monitors there are, what each shows, and which of them together are the whole.

INA3221 monitors (Jetson up to Orin) show voltage and current of three rails; INA238 and the like (Thor) show one rail's power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgemm.store.small_files import number, text

HWMON = Path("/sys/class/hwmon")
WHOLE = ("VDD_IN", "POM_5V_IN")
"""Rails that feed all others."""
UNCONNECTED = "NC"
BESIDE = ("VIN",)
"""Rails that feed the carrier board too: not part of the sum. Thor's development kit shows one beside the module's."""
CHANNELS = (1, 2, 3)  # of an INA3221; index 7 is the sum of the shunts


@dataclass(frozen=True)
class Rail:
    """One rail: its label, and the files that show it."""

    label: str
    power: Path | None = None
    volt: Path | None = None
    ampere: Path | None = None

    def read_mw(self) -> float | None:
        """Power now, in milliwatts; None where it cannot be read."""
        if self.power is not None:
            microwatts = number(self.power)
            return None if microwatts is None else microwatts / 1e3
        assert self.volt is not None
        assert self.ampere is not None
        millivolts, milliamperes = number(self.volt), number(self.ampere)
        return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e3


def find_rails(hwmon: Path = HWMON) -> list[Rail]:
    """Rails that can be read now, in a stable order; monitors are found by name, since their numbers move between boots."""
    rails = []
    for folder in sorted(hwmon.glob("hwmon*")):
        name = text(folder / "name")
        if name == "ina3221":
            rails += [_channel(folder, channel) for channel in CHANNELS]
        elif name.startswith("ina"):
            label = text(folder / "label") or text(folder / "power1_label") or text(folder / "in1_label") or name
            rails.append(Rail(label, power=folder / "power1_input"))
    return [rail for rail in rails if rail.label != UNCONNECTED and rail.read_mw() is not None]


def whole(labels: Mapping[str, object] | list[str]) -> list[str]:
    """Which rails add up to the board's power: the one that feeds all others, else all but those beside the module."""
    connected = [label for label in labels if label != UNCONNECTED]
    return [label for label in connected if label in WHOLE][:1] or [label for label in connected if label not in BESIDE]


def total_mw(rails: Mapping[str, float]) -> float | None:
    """The board's power of rail -> milliwatts; None without any rail. A sum leaves out what has no sensor, so it is a lower bound."""
    counted = whole(rails)
    return sum(rails[label] for label in counted) if counted else None


def _channel(folder: Path, channel: int) -> Rail:
    label = text(folder / f"in{channel}_label") or f"{folder.name}.{channel}"
    return Rail(label, volt=folder / f"in{channel}_input", ampere=folder / f"curr{channel}_input")
