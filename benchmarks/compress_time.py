"""Seconds and memory of `edgemm compress` on the image+audio digits model, beside a bare script that makes the same library calls.

Launch: python benchmarks/compress_time.py RUN DATA    (RUN: what `edgemm train digits` wrote; DATA: the digits folder)
Each starts from an empty cache, in processes of its own, one after the other, in turn: ours, the same without tuning, and the bare script,
which chooses nothing and has no guard of accuracy and no ledger. The ratio is printed of all, without tuning, and without the stages that
belong to guard and ledger as well; then ours once more, with the cache.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml
from _process import EDGEMM, Cost, run
from _results import save

ROOT = Path(__file__).parents[1]
ROUNDS = 3
GUARD_AND_LEDGER = ("val", "revert", "noise", "split", "standins", "ledger")
"""First words of the stages."""


def main(model: str, data: str) -> None:
    untuned = {**yaml.safe_load((ROOT / "recipes" / "openvino-int8.yaml").read_text(encoding="utf-8")), "tune": False}
    costs: dict[str, list[Cost]] = {"tuned": [], "untuned": [], "again": [], "bare": []}
    beside = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as scratch:
            recipe = Path(scratch, "untuned.yaml")
            recipe.write_text(yaml.safe_dump(untuned), encoding="utf-8")
            for name, asked, cache in (("tuned", "openvino-int8", "a"), ("untuned", recipe, "b"), ("again", "openvino-int8", "a")):
                place = f"{scratch}/{name}"
                command = [*EDGEMM, "compress", f"{model}/model.yaml", "-r", asked, "-d", data, "-o", place]
                costs[name].append(run(command, environment={**os.environ, "EDGEMM_CACHE": f"{scratch}/{cache}"}, allowed=(0, 3)))
            steps = json.loads(Path(scratch, "untuned", "report.json").read_text())["details"]["steps"]
            beside.append(sum(step["seconds"] for step in steps if step["name"].split()[0] in GUARD_AND_LEDGER))
            costs["bare"].append(run([sys.executable, Path(__file__).parent / "bare_digits.py", model, data]))
    seconds = {name: [cost.seconds for cost in each] for name, each in costs.items()}
    lean = [whole - part for whole, part in zip(seconds["untuned"], beside, strict=True)]
    figures = {
        "seconds": seconds,
        "processor_s": {name: [cost.processor_seconds for cost in each] for name, each in costs.items()},
        "untuned_without_guard_and_ledger_s": lean,
        "ratio_of_medians": {
            "tuned": median(seconds["tuned"]) / median(seconds["bare"]),
            "untuned": median(seconds["untuned"]) / median(seconds["bare"]),
            "untuned_without_guard_and_ledger": median(lean) / median(seconds["bare"]),
        },
        "peak_rss_mib_of_the_largest_process": max(cost.peak_rss_mib for each in costs.values() for cost in each),
    }
    save("compress_time", figures)


if __name__ == "__main__":
    main(*sys.argv[1:3])
