"""An engine against the same one made 10% slower: how often does the benchmark find it? At least 95 of 100 times.

Launch: python benchmarks/planted_slowdown.py BUNDLE [RUNS]        (about 10 s a run on a quiet machine: 100 runs take 17 minutes)

The slower one waits, busily, for a tenth of each call's own time (benchmarks/_planted_target.py).
"""

from __future__ import annotations

import sys

from _pairs import figures, many, opened, planted
from _planted_target import SHARE
from _results import conclude

LIMIT = 0.95


def main(path: str, runs: str = "100") -> None:
    bundle, feed = opened(path)
    with planted(bundle) as pair:
        found = figures(many(pair, feed, int(runs)), "slower")
    holds = found["claimed"] >= LIMIT * found["runs"]
    share = f"{found['claimed']} of {found['runs']} runs"
    said = f"a slowdown of {SHARE:.0%} was found in {share} (at least {LIMIT:.0%}), {found['flagged']} were flagged"
    conclude("planted_slowdown", holds, said, {"limit": LIMIT, **found})


if __name__ == "__main__":
    main(*sys.argv[1:])
