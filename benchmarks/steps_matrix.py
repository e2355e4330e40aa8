"""Every fusion x {prune, distill, qat, quantize} x {export, OpenVINO, ONNX Runtime}, with real training: how many cells pass.

Launch: OMP_NUM_THREADS=1 python benchmarks/steps_matrix.py

The cells are those of tests/flow/test_steps_matrix.py: a step on a trained model, the ONNX export (checked), and both runtimes' answers
against torch's. A cell passes when all of that holds; what a runtime's answer is off is signal over error in dB, the worst output.
Beside them torch-pruning on the same models, asked for half of every layer, judged as in pruning_compatibility.py.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pruning_compatibility
from _results import HERE, save

sys.path.insert(0, str(HERE.parent))
from tests.flow.cells import MATRIX, make

CELLS = "tests/flow/test_steps_matrix.py"
PACKAGES = ("torch", "torchao", "nncf", "openvino", "onnxruntime", "torch-pruning")


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "cells.xml"
        command = [sys.executable, "-m", "pytest", CELLS, "-q", "--show-capture=no", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run(command, cwd=HERE.parent, check=False)  # a failing cell is a figure, not an error of this program
        cases = ElementTree.parse(report).getroot().iter("testcase")
        table = dict(sorted(found for case in cases if (found := cell(case)) is not None))
    steps = sorted({name.rpartition(" x ")[2] for name in table})
    counts = {step: {verdict: count(table, step, verdict) for verdict in ("passed", "failed")} for step in steps}
    passed = sum(row["passed"] for row in counts.values())
    save(
        "steps_matrix",
        {
            "cells": len(table),
            "passed": passed,
            "counts": counts,
            "seconds": round(time.monotonic() - started),
            "packages": {name: version(name) for name in PACKAGES},
            "table": table,
            "torch_pruning": theirs(),
        },
    )


def theirs() -> dict[str, Any]:
    """torch-pruning on every model of the matrix: verdicts, and how many it fails."""
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for library, prune in pruning_compatibility.LIBRARIES.items():
        if library.startswith("torch-pruning"):
            table = {name: pruning_compatibility.cell(prune, copy.deepcopy(make(name))) for name in MATRIX}
            found[library] = {"failed": sum(row["verdict"] == "failed" for row in table.values()), "table": table}
    return found


def cell(case: ElementTree.Element) -> tuple[str, dict[str, Any]] | None:
    """Name and findings of one cell; None for a test that is none."""
    name = re.search(r"\[(.+ x \w+)\]$", case.get("name", ""))
    if name is None:
        return None
    wrong = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
    found: dict[str, Any] = {"verdict": "passed" if wrong is None else "failed"}
    for told in case.iter("property"):
        value = told.get("value", "")
        found[told.get("name", "")] = float(value) if told.get("name", "").endswith("_db") else value
    if wrong is not None:
        found["why"] = wrong.get("message", "").partition("\n")[0][:200]
    return name.group(1), found


def count(table: dict[str, dict[str, Any]], step: str, verdict: str) -> int:
    return sum(row["verdict"] == verdict for name, row in table.items() if name.endswith(f" x {step}"))


if __name__ == "__main__":
    main()
