"""What each shipped recipe does to a real trained model: the numbers behind the "Measured" lines.

Launch: python benchmarks/recipes.py DIGITS_RUN DIGITS EASYVQA_RUN EASYVQA TOWERS_RUN PAIRS FACE.onnx [RECIPE ...]
(runs: what `edgemm train` wrote; PAIRS: what number_pairs.py wrote; FACE.onnx: any ONNX model). Times of several models are taken by
`edgemm compress` itself, each form in processes of its own, rounds interleaved.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save

RECIPES = Path(__file__).parents[1] / "recipes"
EASYVQA, TOWERS, FACE = ("text-heavy",), ("two-tower",), ("onnx-only",)


def main(digits_run: str, digits: str, easyvqa_run: str, easyvqa: str, towers_run: str, pairs: str, face: str, *only: str) -> None:
    found = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        name = path.stem
        if only and name not in only:
            continue
        model, data = (easyvqa_run, easyvqa) if name in EASYVQA else (towers_run, pairs) if name in TOWERS else (digits_run, digits)
        command = [face] if name in FACE else [model, "-d", data]
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            done = run([*EDGEMM, "compress", *command, "-r", path, "-o", f"{scratch}/bundle"], allowed=(0, 3))
            report = json.loads(Path(f"{scratch}/bundle/report.json").read_text(encoding="utf-8"))
        found[name] = {"model": Path(command[0]).name, "seconds": round(time.perf_counter() - began, 1), **_figures(report)}
        print(name, json.dumps(found[name]), done.output.strip().splitlines()[-1:], flush=True)
    save("recipes", found, beside=bool(only))


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """The report's own numbers: what is lost per output, p50 and size of every form, and the budgets' verdicts."""
    rows = [row for row in report["measurements"] if not row.get("modalities") and not row.get("branch")]
    lost = [row for row in rows if row["name"] == "accuracy_drop_points" and row["subject"] == "bundle"]
    found: dict[str, Any] = {"lost": [_only(row, "target", "output", "value", "low", "high", "unit") for row in lost]}
    for name in ("latency_p50_ms", "size_mib"):
        found[name] = {f"{row['subject']} {row['target']}": round(row["value"], 4) for row in rows if row["name"] == name and row["value"]}
    found["ratios"] = report["details"].get("ratios")
    found["budgets"] = [_only(row, "name", "target", "output", "limit", "value", "verdict") for row in report["budgets"]]
    return found


def _only(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}


if __name__ == "__main__":
    main(*sys.argv[1:])
