"""Every form of head that says where things are x {export, INT8 on OpenVINO, on ONNX Runtime, TensorRT-RTX}: how many cells pass.

Launch: OMP_NUM_THREADS=1 python benchmarks/dense_matrix.py

The cells are those of tests/flow/test_dense_matrix.py. A cell passes when the graph is exported (checked) and answers what torch
answers; when its
INT8 runs on the runtime with every convolution in INT8 and boxes, masks and points where float has them; when TensorRT-RTX builds its INT8
for SM86. What a runtime's answer is off is signal over error in dB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from _results import HERE, save
from steps_matrix import cell, count

CELLS = "tests/flow/test_dense_matrix.py"
PACKAGES = ("torch", "nncf", "openvino", "onnxruntime", "tensorrt-rtx")


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "cells.xml"
        command = [sys.executable, "-m", "pytest", CELLS, "-q", "--show-capture=no", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([*command, "-m", "slow or not slow"], cwd=HERE.parent, check=False)  # a failing cell is a figure, no error
        cases = ElementTree.parse(report).getroot().iter("testcase")
        table = dict(sorted(found for case in cases if (found := cell(case)) is not None))
    columns = sorted({name.rpartition(" x ")[2] for name in table})
    counts = {column: {verdict: count(table, column, verdict) for verdict in ("passed", "failed")} for column in columns}
    save(
        "dense_matrix",
        {
            "cells": len(table),
            "passed": sum(row["passed"] for row in counts.values()),
            "counts": counts,
            "seconds": round(time.monotonic() - started),
            "packages": {name: version(name) for name in PACKAGES},
            "table": table,
        },
    )


if __name__ == "__main__":
    main()
