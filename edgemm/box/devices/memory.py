"""Memory of a box whose processor and GPU share it: what is there, what is free, and how low that fell while something ran.

On a Jetson no figure of one process tells what a model takes: resident memory leaves CUDA's out, and there is no memory of the GPU's
own. What is left for everybody else before and during a run does.
"""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgemm.store.small_files import ROOT, text

EVERY_S = 0.05  # /proc/meminfo costs 0.05 ms to read
FIELD = re.compile(r"^(\w+):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Memory:
    """One look at the memory, in MiB; None where the kernel does not tell.

    Attributes:
        available: What programs can still get without swapping.
        gpu: What the GPU's driver holds for all processes (Orin only).
        swap_used: A model that ends up there is no longer timed by its own speed.
    """

    total: float
    available: float
    swap_used: float
    gpu: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {f"{name}_mib": value for name, value in asdict(self).items()}


def look(root: Path = ROOT) -> Memory | None:
    """The memory now; None where there is no /proc/meminfo that can be read."""
    fields = {name: int(kib) / 1024 for name, kib in FIELD.findall(text(root / "proc/meminfo"))}
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None
    swap = fields.get("SwapTotal", 0.0) - fields.get("SwapFree", 0.0)
    return Memory(fields["MemTotal"], fields["MemAvailable"], max(0.0, swap), fields.get("NvMapMemUsed"))


class Lowest:
    """``with Lowest() as watch: ...``; then ``watch.taken_mib`` says how much of the available memory was gone at the worst moment.

    Attributes:
        before: At the start; None where nothing can be read, and then nothing is told.
        lowest: With the least available; what other programs did meanwhile is in it.
    """

    def __init__(self, root: Path = ROOT, every_s: float = EVERY_S) -> None:
        self._root, self._every_s = root, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.lowest = look(root)

    @property
    def taken_mib(self) -> float | None:
        return None if self.before is None or self.lowest is None else max(0.0, self.before.available - self.lowest.available)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report; {} where nothing can be read."""
        if self.before is None or self.lowest is None:
            return {}
        return {"before": self.before.to_dict(), "lowest": self.lowest.to_dict(), "taken_mib": self.taken_mib}

    def __enter__(self) -> Lowest:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self._see()

    def _watch(self) -> None:
        while not self._end.wait(self._every_s):
            self._see()

    def _see(self) -> None:
        now = look(self._root)
        if now is not None and (self.lowest is None or now.available < self.lowest.available):
            self.lowest = now
