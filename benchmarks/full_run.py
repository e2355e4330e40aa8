"""Wall time of the whole way on the shipped digits card: train, then prune, distil, INT8 and bundle, from an empty cache.

Launch: python benchmarks/full_run.py DIGITS [RECIPE]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from _process import EDGEMM, run
from _results import save


def main(data: str, recipe: str = "prune50-distil-int8") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "EDGEMM_CACHE": f"{scratch}/cache"}
        trained = run([*EDGEMM, "train", "digits", "-d", data, "-o", f"{scratch}/run"], environment=environment)
        command = [*EDGEMM, "compress", f"{scratch}/run/model.yaml", "-r", recipe, "-d", data, "-o", f"{scratch}/bundle"]
        compressed = run(command, environment=environment, allowed=(0, 3))
        report = json.loads((Path(scratch) / "bundle" / "report.json").read_text(encoding="utf-8"))
    wanted = {"accuracy", "accuracy_drop_points", "size_mib", "latency_p50_ms"}
    rows = [row for row in report["measurements"] if row["name"] in wanted and not row.get("modalities") and not row.get("branch")]
    kept = ("name", "subject", "target", "output", "value", "low", "high")
    figures = {
        "recipe": recipe,
        "train_s": trained.seconds,
        "compress_s": compressed.seconds,
        "total_s": trained.seconds + compressed.seconds,
    }
    save("full_run", {**figures, "rows": [{key: row[key] for key in kept} for row in rows]})


if __name__ == "__main__":
    main(*sys.argv[1:3])
