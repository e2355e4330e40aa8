"""The digits searched for the most accurate bundle within 0.4 MiB; and the same trials by one worker and by two.

Launch: python benchmarks/search.py RUN DATA FOLDER [--workers]    (a quiet machine: a quarter of an hour; --workers: ten minutes)
RUN: what `edgemm train digits` wrote. FOLDER: where to work; its cache is begun anew. Seconds of trials are what the search itself tells.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from _process import EDGEMM
from _results import save

TRIALS = 8
SPACE = {
    "steps": [{"prune": {"macs_ratio": 0.5}}, {"distill": {"steps": 300}}, {"quantize": {"calibration_samples": 300}}],
    "targets": {"openvino": {}},
    "search": {
        "sampler": "random",
        "space": {
            "prune.macs_ratio": {"from": 0.3, "to": 0.8, "step": 0.1},
            "distill.learning_rate": {"from": 0.0005, "to": 0.005, "log": True},
        },
    },
}
"""Of the two counts: every trial trains, so that nothing but the trials differs from one worker to two."""
DONE = re.compile(r"^trials .*: done in ([\d.]+) s$", re.MULTILINE)


def best(run: Path, data: Path, folder: Path) -> None:
    """The shipped recipe, as its header launches it."""
    seconds, _ = _search(run, data, folder / "searched", folder / "cache", "search", "--budget", "size_mib=0.4")
    found = json.loads((folder / "searched" / "front.json").read_text(encoding="utf-8"))
    front = [
        {key: one[key] for key in ("points", "costs", "seeds", "missed")} | {"options": one["best"]["options"]} for one in found["front"]
    ]
    test = [{key: row[key] for key in ("subject", "name", "output", "value", "low", "high", "n")} for row in found["test"]]
    save("search_digits", {"seconds": round(seconds), "trials": TRIALS, "budgets": found["budgets"], "front": front, "test": test})


def workers(run: Path, data: Path, folder: Path) -> None:
    """The same eight trials, from an empty cache each time."""
    recipe = folder / "space.yaml"
    recipe.write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    rows: dict[str, Any] = {}
    tried = []
    for count in (1, 2):
        place = folder / f"by-{count}"
        words = (str(recipe), "--budget", "size_mib=5", "--workers", str(count))
        seconds, in_trials = _search(run, data, place, folder / f"cache-{count}", *words)
        rows[str(count)] = {"seconds": round(seconds, 1), "seconds_of_trials": round(in_trials, 1)}
        found = json.loads((place / "front.json").read_text(encoding="utf-8"))["trials"]
        tried.append([(one["options"], one["losses"]) for one in found])
    ratio = rows["1"]["seconds_of_trials"] / rows["2"]["seconds_of_trials"]
    same = tried[0] == tried[1]
    save("search_workers", {"trials": TRIALS, "workers": rows, "times_as_fast": round(ratio, 2), "same_trials_and_answers": same})


def _search(run: Path, data: Path, place: Path, cache: Path, *words: str) -> tuple[float, float]:
    """Seconds of the whole command, and of its trials."""
    for folder in (place, cache):
        shutil.rmtree(folder, ignore_errors=True)
    recipe, *options = words
    command = [*EDGEMM, "search", str(run / "model.yaml"), "-r", recipe, "-d", str(data), "-o", str(place)]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--trials", str(TRIALS), "--seed", "0", *options],
        check=True, capture_output=True, text=True, env={**os.environ, "EDGEMM_CACHE": str(cache)},
    )  # fmt: skip
    return time.perf_counter() - began, sum(map(float, DONE.findall(done.stderr)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (workers if given.workers else best)(given.run.resolve(), given.data.resolve(), given.folder.resolve())
