"""Runs a peer's script in this process and prints what came of it as one JSON object: works, file, why, peak_rss_mib.

Launch: python _measured.py SCRIPT MODEL CALIBRATION OUT FORM
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
from pathlib import Path


def main(script: str, model: str, calibration: str, out: str, form: str) -> None:
    sys.path.insert(0, str(Path(script).parent))
    from _samples import samples

    told: dict[str, object] = {}
    try:
        made = runpy.run_path(script)["compress"](model, samples(calibration), Path(out), form == "best")
        told = {"works": True, "file": str(made)}
    except Exception as err:  # how a peer fails is what we are here to learn
        told = {"works": False, "why": f"{type(err).__name__}: {' '.join(str(err).split())[:200]}"}
    print(json.dumps({**told, "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))


if __name__ == "__main__":
    main(*sys.argv[1:6])
