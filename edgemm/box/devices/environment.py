"""What the box is: the facts without which a number means nothing. No host name, no paths."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.box.devices._files import text
from edgemm.box.devices.jetson import identify
from edgemm.box.devices.threads import waiting
from edgemm.store import cache
from edgemm.store.machine import usable_cores

CPU = Path("/sys/devices/system/cpu")
DEVICE_TREE = Path("/proc/device-tree/model")
RELEVANT_FLAGS = frozenset(
    {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx512f", "avx_vnni", "avx2"}
    | {"asimddp", "asimdhp", "i8mm", "bf16"}
)
"""Flags of /proc/cpuinfo that decide which kernels run."""


ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN (torch, OpenVINO) from the newer instructions of a processor; the first that is set counts."""
_AVX2, _AVX512 = frozenset({"avx2"}), frozenset({"avx2", "avx512f"})
WITHIN_LIMIT = {
    "SSE41": frozenset[str](),
    "AVX": frozenset[str](),
    "AVX2": _AVX2,
    "AVX2_VNNI": _AVX2 | {"avx_vnni"},
    "AVX2_VNNI_2": _AVX2 | {"avx_vnni"},
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _AVX512 | {"avx512_vnni"},
    "AVX512_CORE_BF16": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "AVX512_CORE_FP16": _AVX512 | {"avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"},
}
"""A limit below AMX -> what of ``RELEVANT_FLAGS`` is left (oneDNN's developer guide, "CPU dispatcher control")."""


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


@functools.cache
def instructions() -> frozenset[str]:
    """Instruction sets that matter to inference, as /proc/cpuinfo names them."""
    for line in text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split()) & RELEVANT_FLAGS
    return frozenset()


def instruction_limit() -> str | None:
    """``ONEDNN_MAX_CPU_ISA=AVX2`` where the user keeps oneDNN from newer instructions than these; else None."""
    return next((f"{name}={os.environ[name]}" for name in ONEDNN_LIMITS if os.environ.get(name)), None)


def onednn_instructions() -> frozenset[str]:
    """What of ``instructions`` torch and OpenVINO use here: all of them, or those within ``instruction_limit``."""
    limit = (instruction_limit() or "").rpartition("=")[2].upper()
    return instructions() & WITHIN_LIMIT.get(limit, instructions())


def saturates(having: Collection[str] | None = None) -> bool:
    """Whether sums of two products of unsigned and signed bytes are cut at 16 bits: on x86 without VNNI and AMX (its ``vpmaddubsw``).

    Args:
        having: Instruction sets; by default those that are used here.

    Measured with OpenVINO 2026.4 and ONNX Runtime 1.32 on an EPYC that has AVX2 alone, 64 inputs: a product of matrices is at 21 dB, a
    convolution in OpenVINO at 20 dB; with weights of 7 bits at 142 and 82 dB.
    """
    here = onednn_instructions() if having is None else frozenset(having)
    return "avx2" in here and not here & {"avx512_vnni", "avx_vnni", "amx_int8"}


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
