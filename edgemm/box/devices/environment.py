"""What the box is: the facts without which a number means nothing. No host name, no paths."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.devices.jetson import identify
from edgemm.box.devices.threads import waiting
from edgemm.store import cache
from edgemm.store.instructions import instruction_limit, instructions
from edgemm.store.machine import usable_cores
from edgemm.store.small_files import text

CPU = Path("/sys/devices/system/cpu")
DEVICE_TREE = Path("/proc/device-tree/model")


def environment(versions: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Plain facts for ``Report.environment``.

    Args:
        versions: Distribution -> version of the runtimes that were used (``Target.versions``).
    """
    board = jetson_facts()
    return {
        "device": device_name(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_gib": memory_gib(),
        "instructions": sorted(instructions()),
        "instruction_limit": instruction_limit(),
        "thread_waiting": " ".join(f"{name}={value}" for name, value in waiting().items()),
        "governor": governor(),
        "power_mode": board.get("power_mode") if board else power_mode(),
        "system": system(),
        "python": platform.python_version(),
        "versions": {"edgemm": __version__, "numpy": cache.version("numpy"), **(versions or {})},
    } | ({"jetson": board} if board else {})


@functools.cache
def jetson_facts() -> dict[str, Any] | None:
    """Module, JetPack, power mode and clocks of a Jetson; None elsewhere."""
    board = identify()
    return board.to_dict() if board else None


def device_name() -> str:
    """The board (device tree) where there is one, else the processor's model; never the host's name."""
    board = text(DEVICE_TREE)
    return board or cache.machine()["processor"] or platform.machine()


def memory_gib() -> float | None:
    """Memory of the machine in GiB."""
    for line in text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def governor() -> str | None:
    """How the clock is governed (``performance``, ``powersave``), or None where the kernel does not tell."""
    return text(CPU / "cpu0" / "cpufreq" / "scaling_governor") or None


def power_mode() -> str | None:
    """The platform's power profile, or the state of turbo, where readable."""
    profile = text(Path("/sys/firmware/acpi/platform_profile"))
    turbo = text(CPU / "intel_pstate" / "no_turbo")
    words = [profile] if profile else []
    words += [{"0": "turbo on", "1": "turbo off"}[turbo]] if turbo in ("0", "1") else []
    return ", ".join(words) or None


def system() -> str:
    """Kernel and distribution, without the host's name."""
    pretty = ""
    for line in text(Path("/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            pretty = line.partition("=")[2].strip('"')
    return " ".join(part for part in (pretty, platform.system(), ".".join(platform.release().split(".")[:2])) if part)
