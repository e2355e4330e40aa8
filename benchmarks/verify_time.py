"""What `edgemm verify` costs on a bundle of 10 MB and more, as a whole command. Launch: python benchmarks/verify_time.py BUNDLE"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from _process import EDGEMM, run
from _results import save

ROUNDS = 5


def main(bundle: Path) -> None:
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) if bundle.is_dir() else bundle.stat().st_size
    seconds = [run([*EDGEMM, "verify", bundle]).seconds for _ in range(ROUNDS)]
    save(
        "verify",
        {"bundle_mb": size / 1e6, "seconds": {"median": median(seconds), "min": min(seconds), "max": max(seconds)}, "rounds": ROUNDS},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
