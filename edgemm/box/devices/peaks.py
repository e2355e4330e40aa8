"""What this box can do at most: matrix rate in int8, bf16 and f32, memory bandwidth, and what a layer costs however small it is.

Measured once, in a process of its own, with the runtime at hand, and kept in the cache for this machine and these versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from edgemm.contracts.plain_values import plain, read
from edgemm.contracts.timing_parts import Peaks
from edgemm.errors import MeasureError
from edgemm.store import cache
from edgemm.store.artifact import sha256_of, write_json

LIMIT_S = 180


def peaks(threads: int) -> Peaks:
    """This machine's peaks with ``threads`` threads: from the cache, or measured now (about ten seconds).

    Raises:
        MeasureError: The measuring process failed.
    """
    path = _place(threads)
    try:
        return read(Peaks, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError):
        measured = measure(threads)
    if not measured.disturbed:
        write_json(path, plain(measured))
    return measured


def measure(threads: int) -> Peaks:
    """Measure anew, in a process of its own.

    Raises:
        MeasureError: The process failed.
    """
    command = [sys.executable, "-m", "edgemm.box.devices._peaks_worker", str(threads)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    if process.returncode != 0:
        words = process.stderr.strip().splitlines()[-1:] or ["it said nothing."]
        raise MeasureError("the peaks of this machine could not be measured.", why=words[0], fix="run it again, or leave --roofline out.")
    return read(Peaks, json.loads(process.stdout.strip().splitlines()[-1]))


def _place(threads: int) -> Path:
    worker = Path(__file__).with_name("_peaks_worker.py").read_text(encoding="utf-8")
    facts = {"machine": cache.machine(), "threads": threads, "worker": worker, "openvino": cache.version("openvino")}
    return cache.root() / "peaks" / f"{sha256_of(facts)[:32]}.json"
