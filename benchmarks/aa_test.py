"""An engine against itself: how often does the benchmark claim a difference that is not there? At most 5 of 100 may.

Launch: python benchmarks/aa_test.py BUNDLE [RUNS]        (about 20 s a run on a quiet machine: 100 runs take half an hour)

Each run is a whole benchmark of two candidates with the defaults of `edgemm benchmark`.
"""

from __future__ import annotations

import sys

from _pairs import figures, itself, many, opened
from _results import conclude

LIMIT = 0.05


def main(path: str, runs: str = "100") -> None:
    bundle, feed = opened(path)
    found = figures(many(itself(bundle), feed, int(runs)), None)
    holds = found["claimed"] <= LIMIT * found["runs"]
    said = f"{found['claimed']} of {found['runs']} A/A runs claimed a difference (at most {LIMIT:.0%} may), {found['flagged']} were flagged"
    conclude("aa_test", holds, said, {"limit": LIMIT, **found})


if __name__ == "__main__":
    main(*sys.argv[1:])
