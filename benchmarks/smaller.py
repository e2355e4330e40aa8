"""Prune a share of the MACs, distil, INT8, beside INT8 alone: what it costs in accuracy and wins in time and size.

Launch: python benchmarks/smaller.py NAME CHECKPOINT DATA [EPOCHS [bf16 [SHARE]]]
(a checkpoint large enough to matter: float p50 of 8 ms or more; SHARE of the MACs goes, by default 0.5)
Both bundles are timed in one call of `edgemm benchmark`, each in processes of its own, rounds interleaved.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save

END = "{quantize: {}}]\ntargets: {openvino: {}}\nbudgets: {accuracy_drop_points: 1.0}\n"
PRUNED = "macs_ratio: SHARE, round_to: 64"
RECIPES = {
    "int8": f"steps: [{END}",
    "small": f"steps: [{{prune: {{{PRUNED}}}}}, " + "{distill: {epochs: EPOCHS, mixed_precision: PRECISION}}, " + END,
}
KEPT = ("accuracy", "accuracy_drop_points", "f1", "mae", "latency_p50_ms", "latency_p95_ms", "size_mib", "peak_rss_mib")


def main(name: str, checkpoint: str, data: str, epochs: str = "12", precision: str = "no", share: str = "0.5") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        seconds = {}
        for word, text in RECIPES.items():
            recipe = Path(scratch) / f"{word}.yaml"
            for key, value in (("EPOCHS", epochs), ("PRECISION", precision), ("SHARE", share)):
                text = text.replace(key, value)
            recipe.write_text(text, encoding="utf-8")
            command: list[str | Path] = [*EDGEMM, "compress", checkpoint, "-r", recipe, "-d", data, "-o", f"{scratch}/{word}"]
            seconds[word] = run(command, allowed=(0, 3)).seconds
        run([*EDGEMM, "benchmark", f"{scratch}/int8", f"{scratch}/small", "-d", data, "-o", f"{scratch}/compared"], allowed=(0, 3))
        compared = _report(f"{scratch}/compared")
        found: dict[str, Any] = {word: _rows(_report(f"{scratch}/{word}")) for word in RECIPES}
    ratios = compared["details"]["ratios"]
    distil = {"epochs": int(epochs), "precision": precision}
    pruned = PRUNED.replace("SHARE", share)
    save(f"smaller_{name}", {"prune": pruned, "distil": distil, "compress_s": seconds, "side_by_side": ratios, "reports": found})


def _report(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    return found


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("name", "subject", "target", "output", "value", "low", "high", "unit", "precision_ran")
    return [{key: row.get(key) for key in keys} for row in report["measurements"] if row["name"] in KEPT and not row.get("modalities")]


if __name__ == "__main__":
    main(*sys.argv[1:7])
