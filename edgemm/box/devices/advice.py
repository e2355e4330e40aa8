"""What to do on a box before its numbers mean something: one sentence each, with the command."""

from __future__ import annotations

from edgemm.box.devices.jetson import Jetson
from edgemm.box.devices.memory import Memory
from edgemm.box.devices.thermals import Thermals

APT_TENSORRT = "sudo apt-get install -y tensorrt python3-libnvinfer"
"""Brings TensorRT and its binding on every JetPack from 6 on."""
NVPMODEL_HIGHEST = ("maxn", "maxn_super")
LEAST_MIB = 1024.0  # available memory below which TensorRT skips most tactics; see the builder's advice
NEAR_C = 10.0  # to the critical temperature
BROKEN_L4T = "36.4.7"  # its NvMap refuses large allocations although memory is free
UNSUPPORTED = ("4.", "5.")


def on_jetson(board: Jetson) -> list[str]:
    """Power mode, clocks, TensorRT."""
    advice = []
    if board.jetpack and board.jetpack.startswith(UNSUPPORTED):
        advice.append(f"JetPack {board.jetpack} is too old for edgemm: it needs JetPack 6 or later (Python 3.10).")
    if board.tensorrt is None:
        advice.append(f"TensorRT is not installed: {APT_TENSORRT}")
    elif not board.python_tensorrt:
        advice.append("TensorRT is here without its Python binding: sudo apt-get install -y python3-libnvinfer")
    if board.power_mode and board.power_mode.lower() not in NVPMODEL_HIGHEST:
        advice.append(
            f"the power mode is {board.power_mode}: `sudo nvpmodel -p --verbose` lists the modes, `sudo nvpmodel -m NUMBER` sets one."
        )
    if board.clocks.locked is False:
        advice.append("the clocks are not locked, so timings will scatter: sudo jetson_clocks (until the next start).")
    elif board.clocks.locked is None:
        advice.append("whether the clocks are locked only root can tell: sudo jetson_clocks --show")
    if board.l4t == BROKEN_L4T:
        advice.append(
            f"L4T {BROKEN_L4T} may refuse large allocations with 'NvMapMemAllocInternalTagged: error 12' although memory is free."
        )
    return advice


def on_heat(seen: Thermals) -> list[str]:
    """Throttling now or before, and little distance to the critical temperature."""
    advice = []
    if seen.throttling:
        advice.append(f"the box is throttled right now ({', '.join(seen.throttling)}): cool it before measuring.")
    happened = {why: count for why, count in seen.events.items() if count}
    if happened:
        words = ", ".join(f"{count} of {why}" for why, count in happened.items())
        advice.append(f"since its start the board's current limit acted: {words}. A lower power mode or a stronger supply helps.")
    if seen.hottest is not None and seen.critical_celsius is not None and seen.hottest > seen.critical_celsius - NEAR_C:
        advice.append(f"{seen.hottest:.0f} degrees is near the critical {seen.critical_celsius:.0f}: check the fan.")
    return advice


def on_memory(seen: Memory | None) -> list[str]:
    """Little memory left for building and running."""
    if seen is None or seen.available >= LEAST_MIB:
        return []
    how = "stop the desktop (sudo systemctl isolate multi-user.target) or other programs."
    return [f"only {seen.available:.0f} MiB of memory are available: {how}"]
