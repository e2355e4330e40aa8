"""With a neighbour that uses the cores: is the verdict right, or the run flagged? At most 5 of 100 runs may be wrong and say nothing.

Launch: python benchmarks/noisy_neighbour.py BUNDLE [RUNS]        (about 40 s a run: 40 runs of each kind take an hour)

Neighbours, in turn: one core kept busy; every core kept busy; memory copied; bursts of half a second at random times. Half of the runs hold
an engine against itself, half against the one made 10% slower.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from _pairs import figures, itself, many, opened, planted
from _results import conclude

from edgemm.box.devices.disturbance import allowed_cores

LIMIT = 0.05
BUSY = "while True: pass"
COPIES = "import numpy as np\na = np.ones(1 << 25)\nwhile True: b = a.copy()"
BURSTS = """
import random, time
while True:
    end = time.time() + 0.5
    while time.time() < end: pass
    time.sleep(random.expovariate(1))
"""
KINDS = {"one core": [BUSY], "every core": [BUSY] * len(allowed_cores()), "memory": [COPIES], "bursts": [BURSTS]}


@contextmanager
def neighbour(number: int) -> Iterator[None]:
    """The neighbours of run ``number``; they end with it."""
    kind = list(KINDS)[number % len(KINDS)]
    print(f"neighbour: {kind}", flush=True)
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in KINDS[kind]]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(path: str, runs: str = "40") -> None:
    bundle, feed = opened(path)
    same = figures(many(itself(bundle), feed, int(runs), around=neighbour), "no difference shown")
    with planted(bundle) as pair:
        slower = figures(many(pair, feed, int(runs), around=neighbour), "slower")
    wrong = sum(kind["unflagged"] - kind["claimed_unflagged"] for kind in (same, slower))
    total = same["runs"] + slower["runs"]
    holds = wrong <= LIMIT * total
    flagged = same["flagged"] + slower["flagged"]
    said = f"{wrong} of {total} runs beside a neighbour were wrong and not flagged (at most {LIMIT:.0%} may); {flagged} were flagged"
    conclude("noisy_neighbour", holds, said, {"limit": LIMIT, "neighbours": list(KINDS), "itself": same, "slower": slower})


if __name__ == "__main__":
    main(*sys.argv[1:])
