"""Weights alone in 4 bits: edgemm beside NNCF and ONNX Runtime on the same float graph. Sizes and parity; with --time, speed.

Launch: python benchmarks/weights_only.py BUNDLE DATA [--time]
BUNDLE: what `edgemm compress MODEL -r tower-int4 -d DATA -o BUNDLE` made; DATA: its dataset. --time: a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _process import EDGEMM, run
from _results import save

from edgemm.box.bundle.opened import open_bundle
from edgemm.contracts import onnx_file, plugins
from edgemm.contracts.target import Target
from edgemm.data.dataset import open_dataset
from edgemm.errors import TargetError
from edgemm.graph import files, parity

GROUP, ROWS = 64, 8


def main(place: Path, data: Path, *, timed: bool) -> None:
    bundle = open_bundle(place)
    samples = [batch.inputs for batch in open_dataset(data, bundle.card).batches("test", 1, limit=ROWS)]
    expected, _ = parity.run_reference(files.load(bundle.model), samples)
    with tempfile.TemporaryDirectory() as scratch:
        graphs = {f"edgemm, {name}": (bundle.target_model(name), name) for name in bundle.targets()}
        graphs |= _peers(bundle.model, samples, Path(scratch))
        rows = {name: _row(path, target, samples, expected) for name, (path, target) in graphs.items()}
        figures: dict[str, Any] = {"float_mib": _mib(bundle.model), "graphs": rows}
        if timed:
            others = [str(path) for name, (path, _) in graphs.items() if not name.startswith("edgemm") and "refused" not in rows[name]]
            out = run([*EDGEMM, "benchmark", place, *others, "-d", data, "-o", Path(scratch) / "report"], allowed=(0, 3))
            report = json.loads((Path(scratch) / "report" / "report.json").read_text())
            timings = [m for m in report["measurements"] if m["name"] == "latency_p50_ms"]
            figures["p50_ms"] = {f"{Path(m['candidate']).name}, {m['subject']} {m['target']}": m["value"] for m in timings}
            sys.stderr.write(out.output)
    save("weights_only", figures)


def _peers(model: Path, samples: list[dict[str, np.ndarray]], folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> what the tool made of the float graph, as its documentation shows it, and where it runs."""
    import nncf
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    floats = onnx.load(str(model))
    for entry in floats.opset_import:
        entry.version = 21 if entry.domain in ("", "ai.onnx") else entry.version  # its blocks need it
    floats.ir_version = 10
    mode = nncf.CompressWeightsMode.INT4_SYM
    paths = {"NNCF": folder / "nncf.onnx", "NNCF, all layers": folder / "nncf_all.onnx", "ONNX Runtime": folder / "ort.onnx"}
    files.save(nncf.compress_weights(floats, mode=mode, group_size=GROUP, ratio=1.0), paths["NNCF"])
    files.save(nncf.compress_weights(floats, mode=mode, group_size=GROUP, ratio=1.0, all_layers=True), paths["NNCF, all layers"])
    quantizer = MatMulNBitsQuantizer(files.load(model), block_size=GROUP, is_symmetric=True, op_types_to_quantize=("MatMul", "Gather"))
    quantizer.process()
    files.save(quantizer.model.model, paths["ONNX Runtime"])
    runtimes = {"NNCF": "openvino", "NNCF, all layers": "openvino", "ONNX Runtime": "onnxruntime"}
    return {name: (path, runtimes[name]) for name, path in paths.items()}


def _row(path: Path, target: str, samples: list[dict[str, np.ndarray]], expected: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        with plugins.load(Target, target).open(path) as session:
            answers = [session.run(sample) for sample in samples]
            ran = session.precision()
    except TargetError as err:
        return {"runs_in": target, "refused": str(err).splitlines()[0], "mib": _mib(path)}
    found = {name: np.concatenate([np.asarray(row[name]).reshape(-1) for row in answers]) for name in expected}
    decibels = {name: round(entry.sqnr_db, 1) for name, entry in parity.compare(expected, found).items()}
    return {"runs_in": target, "ran": ran, "mib": _mib(path), "against_float_db": decibels}


def _mib(path: Path) -> float:
    beside = sum((path.parent / name).stat().st_size for name in onnx_file.read(path).external)
    return round((path.stat().st_size + beside) / 2**20, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--time", action="store_true")
    given = parser.parse_args()
    main(given.bundle, given.data, timed=given.time)
