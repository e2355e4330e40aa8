"""Prune a share of the MACs, distil, INT8, beside INT8 alone: what it costs in accuracy and wins in time and size.

Launch: python benchmarks/smaller.py NAME CHECKPOINT DATA [STEP.OPTION=VALUE ...]
(half of the MACs goes and distilling takes as many passes as it takes by itself, unless said: prune.macs_ratio=0.7 prune.round_to=64
distill.epochs=12 distill.mixed_precision=bf16)
Both bundles are timed in one call of `edgemm benchmark`, each in processes of its own, rounds interleaved.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from _process import EDGEMM, run
from _results import save

END = "targets: {openvino: {}}\nbudgets: {accuracy_drop_points: 1.0}\n"
KEPT = ("accuracy", "accuracy_drop_points", "f1", "mae", "latency_p50_ms", "latency_p95_ms", "size_mib", "peak_rss_mib")


def main(name: str, checkpoint: str, data: str, *changed: str) -> None:
    options: dict[str, dict[str, Any]] = {"prune": {"macs_ratio": 0.5}, "distill": {}, "quantize": {}}
    for change in changed:
        where, _, value = change.partition("=")
        step, _, option = where.partition(".")
        options[step][option] = yaml.safe_load(value)
    recipes = {"int8": ["quantize"], "small": list(options)}
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {}
        for word, steps in recipes.items():
            recipe = Path(scratch) / f"{word}.yaml"
            recipe.write_text(yaml.safe_dump({"steps": [{step: options[step]} for step in steps]}) + END, encoding="utf-8")
            command: list[str | Path] = [*EDGEMM, "compress", checkpoint, "-r", recipe, "-d", data, "-o", f"{scratch}/{word}"]
            seconds[word] = run(command, allowed=(0, 3)).seconds
        run([*EDGEMM, "benchmark", f"{scratch}/int8", f"{scratch}/small", "-d", data, "-o", f"{scratch}/compared"], allowed=(0, 3))
        compared = _report(f"{scratch}/compared")
        reports = {word: _rows(_report(f"{scratch}/{word}")) for word in recipes}
    ratios = compared["details"]["ratios"]
    save(f"smaller_{name}", {"options": options, "compress_s": seconds, "side_by_side": ratios, "reports": reports})


def _report(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    return found


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("name", "subject", "target", "output", "value", "low", "high", "unit", "precision_ran")
    return [{key: row.get(key) for key in keys} for row in report["measurements"] if row["name"] in KEPT and not row.get("modalities")]


if __name__ == "__main__":
    main(*sys.argv[1:])
