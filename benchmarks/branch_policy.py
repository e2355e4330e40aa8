"""Uniform pruning against what the branches cost and give, at equal measured latency: which keeps more accuracy?

Launch: python benchmarks/branch_policy.py NAME CHECKPOINT DATA [RATIO [EPOCHS [PRECISION]]]
Uniform: every layer loses RATIO of its channels. Its INT8 latency then is the target of the other: latency_ratio with spread: branches,
each branch its own share by what that harms for what it saves. Both are distilled alike. Timed side by side by `edgemm benchmark`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save

RECIPE = "steps: [{{prune: {{{prune}}}}}, {{distill: {{{distill}}}}}, {{quantize: {{}}}}]\ntargets: {{openvino: {{}}}}\n"


def main(name: str, checkpoint: str, data: str, ratio: str = "0.4", epochs: str = "12", precision: str = "no") -> None:
    distill = f"epochs: {epochs}, mixed_precision: {precision}"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        run([*EDGEMM, "compress", checkpoint, "-r", "openvino-int8", "-d", data, "-o", place / "whole"], allowed=(0, 3))
        _compress(place, "uniform", f"ratio: {ratio}", checkpoint, data, distill)
        share = 1 - _p50(place / "uniform") / _p50(place / "whole")
        _compress(place, "branches", f"latency_ratio: {share:.3f}, spread: branches", checkpoint, data, distill)
        run([*EDGEMM, "benchmark", place / "uniform", place / "branches", "-d", data, "-o", place / "compared"], allowed=(0, 3))
        compared = _report(place / "compared")
        figures = {
            "uniform_ratio": float(ratio),
            "distill": distill,
            "latency_ratio": share,
            "branches_over_uniform": _ratio(compared, str(place / "branches"), str(place / "uniform")),
            "scores": {word: _scores(_report(place / word)) for word in ("whole", "uniform", "branches")},
        }
    save(f"branch_policy_{name}", figures)


def _compress(place: Path, word: str, prune: str, checkpoint: str, data: str, distill: str) -> None:
    recipe = place / f"{word}.yaml"
    recipe.write_text(RECIPE.format(prune=prune, distill=distill), encoding="utf-8")
    run([*EDGEMM, "compress", checkpoint, "-r", recipe, "-d", data, "-o", place / word], allowed=(0, 3))


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def _ratio(report: dict[str, Any], candidate: str, baseline: str) -> dict[str, Any]:
    """p50 of one bundle over another's."""
    pair = (f"{candidate}, openvino", f"{baseline}, openvino")
    row = next(row for row in report["details"]["ratios"] if (row["candidate"], row["baseline"]) == pair)
    return {key: row[key] for key in ("value", "low", "high", "verdict", "disturbed")}


def _p50(folder: Path) -> float:
    rows = _report(folder)["measurements"]
    return float(next(row["value"] for row in rows if row["name"] == "latency_p50_ms" and row["subject"] == "bundle"))


def _scores(report: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in report["measurements"] if row["subject"] == "bundle" and not row.get("modalities")]
    kept = ("accuracy", "accuracy_drop_points", "latency_p50_ms", "size_mib")
    return [{key: row.get(key) for key in ("name", "output", "value", "low", "high")} for row in rows if row["name"] in kept]


if __name__ == "__main__":
    main(*sys.argv[1:7])
