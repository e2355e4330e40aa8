"""What `edgemm --help` costs, beside an empty Python. Launch: python benchmarks/startup.py"""

from __future__ import annotations

import sys
from statistics import median

from _process import EDGEMM, run
from _results import save

ROUNDS = 15


def main() -> None:
    helps, bare = [], []
    for _ in range(ROUNDS):
        helps.append(run([*EDGEMM, "--help"]).seconds)
        bare.append(run([sys.executable, "-c", "pass"]).seconds)
    save(
        "startup",
        {
            "edgemm_help_s": {"median": median(helps), "min": min(helps), "max": max(helps)},
            "empty_python_s": median(bare),
            "rounds": ROUNDS,
        },
    )


if __name__ == "__main__":
    main()
