"""A trained checkpoint through every peer, then all results and our bundle side by side.

Launch: python benchmarks/peers/run.py CARD DATA BUNDLE [--environments FOLDER] [--only PEER]
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from _process import EDGEMM, run  # noqa: E402  beside this folder
from _results import save  # noqa: E402
from environment import PACKAGES  # noqa: E402

from edgemm import card as cards  # noqa: E402
from edgemm.data import open_dataset  # noqa: E402

CALIBRATION = 300
FORMS = ("default", "best")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("card")
    parser.add_argument("data")
    parser.add_argument("bundle")
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--only", choices=sorted(PACKAGES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        run([*EDGEMM, "export", given.card, "-d", given.data, "-o", place / "float"])
        calibration = _calibration(given.card, given.data, place / "calibration.npz")
        rows = [
            _compressed(peer, form, place / "float" / "model.onnx", calibration, place / f"{peer}-{form}", given.environments)
            for peer in ([given.only] if given.only else sorted(PACKAGES))
            for form in FORMS
        ]
        made = [row["file"] for row in rows if row["works"]]
        run([*EDGEMM, "benchmark", given.bundle, *made, "-d", given.data, "--no-roofline", "-o", place / "report"], allowed=(0, 3))
        report = json.loads((place / "report" / "report.json").read_text(encoding="utf-8"))
    table = [_ours(report, given.bundle), *(_row(report, row, given.bundle) for row in rows)]
    save(f"peers_{Path(given.bundle).stem}", {"table": table, "notes": report["details"]["notes"]})


def _calibration(card: str, data: str, path: Path) -> Path:
    batches = list(open_dataset(data, cards.load(card)).batches("train", 1, limit=CALIBRATION))
    np.savez(path, **{name: np.concatenate([batch.inputs[name] for batch in batches]) for name in batches[0].inputs})
    return path


def _compressed(peer: str, form: str, model: Path, calibration: Path, out: Path, environments: Path | None) -> dict[str, Any]:
    """One peer's try: the file it made, or the last line of how it failed."""
    out.mkdir(parents=True)
    python = environments / peer / "bin" / "python" if environments else Path(sys.executable)
    began = time.perf_counter()
    told = {"peer": peer, "form": form, "lines": _lines(peer)}
    cost = run([python, HERE / "_measured.py", HERE / f"{peer}.py", model, calibration, out, form], allowed=range(-64, 256))
    said = cost.output.strip().splitlines() or ["it said nothing"]
    answer = json.loads(said[-1]) if said[-1].startswith("{") else {"works": False, "why": said[-1]}
    return {**told, **answer, "seconds": round(time.perf_counter() - began, 1)}


def _lines(peer: str) -> int:
    """Lines of the peer's function: what a user has to write."""
    spec = spec_from_file_location(peer, HERE / f"{peer}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return sum(bool(line.strip()) for line in inspect.getsource(module.compress).splitlines())


def _row(report: dict[str, Any], tried: dict[str, Any], bundle: str) -> dict[str, Any]:
    facts = {key: tried.get(key) for key in ("peer", "form", "works", "why", "lines", "seconds", "peak_rss_mib")}
    if not tried["works"]:
        return facts
    of = [m for m in report["measurements"] if m["candidate"] == tried["file"] and m["subject"] == "bundle"]
    return {**facts, "targets": [_figures(report, of, target, bundle) for target in dict.fromkeys(m["target"] for m in of)]}


def _ours(report: dict[str, Any], bundle: str) -> dict[str, Any]:
    of = [m for m in report["measurements"] if m["candidate"] == bundle and m["subject"] == "bundle"]
    targets = dict.fromkeys(m["target"] for m in of)
    return {"peer": "edgemm", "works": True, "targets": [_figures(report, of, target, bundle) for target in targets]}


def _figures(report: dict[str, Any], of: list[dict[str, Any]], target: str, bundle: str) -> dict[str, Any]:
    """A peer's result on one target: what was lost, p50, size, its ratio to ours with interval and verdict."""
    mine = [m for m in of if m["target"] == target]
    shown = {
        f"{m['name']}{' ' + m['output'] if m['output'] else ''}": round(m["value"], 4)
        for m in mine
        if m["name"] in ("latency_p50_ms", "size_mib", "accuracy", "f1", "mae", "accuracy_drop_points")
    }
    names = {f"{mine[0]['candidate']}, {target}"} if mine else set()
    pairs = [
        {
            key: row[key] if isinstance(row[key], (str, bool)) else round(row[key], 3)
            for key in ("value", "low", "high", "verdict", "disturbed")
        }
        for row in report["details"]["ratios"]
        if row["candidate"] in names and row["baseline"].startswith(f"{bundle}, ") and not row["baseline"].endswith((" float", " default"))
    ]
    return {"target": target, **shown, "against_ours": pairs}


if __name__ == "__main__":
    main()
