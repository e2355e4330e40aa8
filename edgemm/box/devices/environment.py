"""What the box is: the facts without which a number means nothing. No host name, no paths."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.devices.jetson import identify
from edgemm.store import cache
from edgemm.store.machine import usable_cores

CPU = Path("/sys/devices/system/cpu")
DEVICE_TREE = Path("/proc/device-tree/model")
RELEVANT_FLAGS = frozenset(
    {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512f", "avx_vnni", "avx2"}
    | {"asimddp", "asimdhp", "i8mm", "bf16"}
)
"""Flags of /proc/cpuinfo that decide which kernels run."""


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
        "governor": governor(),
        "power_mode": board.get("power_mode") if board else power_mode(),
        "system": system(),
        "python": platform.python_version(),
        "versions": {"edgemm": __version__, "numpy": cache.version("numpy"), **(versions or {})},
    } | ({"jetson": board} if board else {})


@functools.cache
def jetson_facts() -> dict[str, Any] | None:
    """Module, JetPack, power mode and clocks of a Jetson; None elsewhere."""
    found = identify()
    return found.to_dict() if found else None


def device_name() -> str:
    """The board (device tree) where there is one, else the processor's model; never the host's name."""
    board = _read(DEVICE_TREE).strip("\0 ")
    return board or cache.machine()["processor"] or platform.machine()


def memory_gib() -> float | None:
    """Memory of the machine in GiB."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


@functools.cache
def instructions() -> frozenset[str]:
    """Instruction sets that matter to inference, as /proc/cpuinfo names them."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split()) & RELEVANT_FLAGS
    return frozenset()


def governor() -> str | None:
    """How the clock is governed (``performance``, ``powersave``), or None where the kernel does not tell."""
    return _read(CPU / "cpu0" / "cpufreq" / "scaling_governor") or None


def power_mode() -> str | None:
    """The platform's power profile, or the state of turbo, where readable."""
    profile = _read(Path("/sys/firmware/acpi/platform_profile"))
    turbo = _read(CPU / "intel_pstate" / "no_turbo")
    words = [profile] if profile else []
    words += [{"0": "turbo on", "1": "turbo off"}[turbo]] if turbo in ("0", "1") else []
    return ", ".join(words) or None


def system() -> str:
    """Kernel and distribution, without the host's name."""
    pretty = ""
    for line in _read(Path("/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            pretty = line.partition("=")[2].strip('"')
    return " ".join(part for part in (pretty, platform.system(), ".".join(platform.release().split(".")[:2])) if part)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
