"""Opening 10^5, 10^6 and 10^7 rows of sensor readings, csv plain and quoted, and parquet, for the first time and again: seconds, memory.

Launch: python benchmarks/many_rows.py FOLDER [ROWS ...]     (about 3 GiB there for all; what is in FOLDER is taken)

Each opening is a process of its own, which decodes the first batch of train as well; the second finds the index that the first one kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from _results import save

ROWS = (100_000, 1_000_000, 10_000_000)
BLOCK = 500_000
SETTLED_S = 3.0  # no index is kept of a file that may still be written to
QUOTES = {"csv": pa.csv.WriteOptions(quoting_style="none"), "quoted csv": pa.csv.WriteOptions()}
FORMS = (*QUOTES, "parquet")
OPENED = """
import json, re, resource, sys, time
from edgemm.contracts import card_file
from edgemm.data.dataset import open_dataset
imported = time.perf_counter()
card = card_file.parse({
    "factory": "a:b", "inputs": {"imu": {"modality": "sensor", "shape": [2], "rate_hz": 50}},
    "outputs": {"event": {"task": "classification", "labels": ["no", "yes"]}},
})
dataset = open_dataset(sys.argv[1], card)
(batch,) = dataset.batches("train", 64, limit=64)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "seconds": round(time.perf_counter() - imported, 2), "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
    "peak_rss_mib": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024,
}))
"""


def main(folder: Path, counts: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for count in counts:
        for form in FORMS:
            path = _written(folder, count, form)
            time.sleep(max(0.0, SETTLED_S - (time.time() - path.stat().st_mtime)))
            with tempfile.TemporaryDirectory() as cache:
                figures[f"{count} rows, {form}"] = {turn: _opened(path, cache) for turn in ("first", "again")}
            print(json.dumps({f"{count} {form}": figures[f"{count} rows, {form}"]}), flush=True)
    save("many_rows", figures)


def _written(folder: Path, count: int, form: str) -> Path:
    """A manifest in which one of ten rows is val and one test."""
    path = folder / f"{count}" / form / f"manifest.{form.split()[-1]}"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch, schema = path.with_suffix(".part"), pa.schema([("split", pa.string()), ("imu", pa.string()), ("event", pa.string())])
    write = (
        pa.parquet.ParquetWriter(scratch, schema) if form == "parquet" else pa.csv.CSVWriter(scratch, schema, write_options=QUOTES[form])
    )
    rng = np.random.default_rng(0)
    with write as writer:
        for begin in range(0, count, BLOCK):
            rows = min(BLOCK, count - begin)
            readings = rng.integers(0, 100, (rows, 2)).astype(str)
            split = np.array(["train"] * 8 + ["val", "test"])[np.arange(rows) % 10]
            columns = [
                split,
                np.char.add(np.char.add(readings[:, 0], " "), readings[:, 1]),
                np.array(["no", "yes"])[rng.integers(0, 2, rows)],
            ]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
    scratch.rename(path)
    return path


def _opened(path: Path, cache: str) -> dict[str, float]:
    command = [sys.executable, "-c", OPENED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "EDGEMM_CACHE": cache})
    told: dict[str, float] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]] or list(ROWS))
