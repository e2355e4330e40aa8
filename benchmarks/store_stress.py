"""The store under stress: processes that want the same 5,000 stages in an order of their own, one of them killed (kill -9) again and again.

Launch: python benchmarks/store_stress.py [PROCESSES] [KEYS]

A killed one is begun anew. At the end each stage is there, whole and of one maker, and tidying has removed what the killed ones left.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _results import save

from edgemm.store import tidying

KILL_EVERY_S = 0.1
FILES = 3
WORKER = f"""
import os, random, sys
from edgemm.store import cache
keys = list(range(int(sys.argv[1])))
random.Random(os.getpid()).shuffle(keys)
for number in keys:
    def make(scratch):
        for file in range({FILES}):
            (scratch / str(file)).write_text(str(os.getpid()) * 1000)
        return scratch / "0"
    main = cache.stage("export", {{"number": number}}, make).main
    assert len({{(main.parent / str(file)).read_text() for file in range({FILES})}}) == 1, number
"""


def main(processes: int, keys: int) -> None:
    chance, killed, began = random.Random(0), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        os.environ["EDGEMM_CACHE"] = place
        command = [sys.executable, "-c", WORKER, str(keys)]
        running = [subprocess.Popen(command) for _ in range(processes)]
        while len([entry for entry in root.glob("export/*") if not entry.name.startswith(".")]) < keys:
            time.sleep(KILL_EVERY_S)
            victim = chance.randrange(processes)
            failed = [process.returncode for process in running if process.poll() not in (None, 0)]
            assert not failed, f"a process that nobody killed ended with {failed}"
            running[victim].kill()
            killed += running[victim].wait() != 0
            running[victim] = subprocess.Popen(command)
        ends = [process.wait() for process in running]
        seconds = time.perf_counter() - began
        tidying.tidy(root, tidying.limit())
        entries = sorted(root.glob("export/*"))
        whole = sum(len({(entry / str(file)).read_text() for file in range(FILES)}) == 1 for entry in entries)
        figures = {"processes": processes, "keys": keys, "killed": killed, "seconds": round(seconds, 1)}
        save("store_stress", {**figures, "entries": len(entries), "whole": whole, "others_ended_with": sorted(set(ends))})


if __name__ == "__main__":
    main(*(int(sys.argv[place]) if len(sys.argv) > place else number for place, number in ((1, 6), (2, 5000))))
