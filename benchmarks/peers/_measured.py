"""Runs a peer's script in this process and prints what came of it as one JSON object: works, file or why, and what it cost.

Launch: python _measured.py SCRIPT CARD DATA MODEL CALIBRATION OUT FORM
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import time
from pathlib import Path


def main(script: str, card: str, data: str, model: str, calibration: str, out: str, form: str) -> None:
    sys.path[:0] = [str(Path(script).parent), str(Path(script).parents[2])]
    from _given import Given

    began = time.perf_counter()
    told: dict[str, object] = {}
    try:
        made = runpy.run_path(script)["compress"](Given(card, data, model, calibration), Path(out), form)
        told = {"works": True, "file": str(made)}
    except (Exception, SystemExit) as err:  # how a peer fails is what we are here to learn
        told = {"works": False, "why": f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"}
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cost = {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(sum(use.ru_utime + use.ru_stime for use in spent), 1),
        "peak_rss_mib": round(max(use.ru_maxrss for use in spent) / 1024),
    }
    print(json.dumps(told | cost))


if __name__ == "__main__":
    main(*sys.argv[1:8])
