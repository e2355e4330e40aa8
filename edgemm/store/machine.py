"""What this machine offers to a program: the cores it may use; and memory given back to it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path

from edgemm.store.small_files import text

CPU = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


@functools.cache
def usable_cores() -> int:
    """Cores this process may use: physical ones of those allowed, within the container's quota of processor time."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {text(CPU / f"cpu{index}" / "topology" / "thread_siblings_list") or str(index) for index in allowed}
    return max(1, min(len(siblings), _quota(len(allowed))))


def give_back_memory() -> None:
    """Let the C library return what it keeps free: after a model of 600 MB it keeps 1.5 GB for the next. Nothing where it cannot."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _quota(fallback: int) -> int:
    quota, _, period = text(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        return max(1, int(quota) // int(period))
    return fallback
