"""Say a digit, find its picture: a two-tower trained here, in INT8, and with half of the picture's tokens merged. Recall@1 and @10 on test.

Launch: python benchmarks/say_and_find.py DIGITS FOLDER     (the unpacked digits; what is in FOLDER is taken)

Right is every picture of the digit that was said, among all of test. Points lost are of recall@1, paired, on each target.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _process import EDGEMM, run
from _results import save

from edgemm.box.bundle.opened import Bundle, open_bundle
from edgemm.box.serving import model as serving
from edgemm.contracts import task as tasks
from edgemm.data.dataset import open_dataset

CARD = "image-audio-two-tower"
QUANTIZE = {"quantize": {"calibration_samples": 300}}
HALF = {"tokens_per_layer": 12, "leave": 24}  # of 49
RECIPES: dict[str, list[dict[str, Any]]] = {
    "int8": [QUANTIZE],
    "merged": [{"merge": HALF}, {"distill": {"relations": 1.0, "memory": 4096}}, QUANTIZE],
}
POINTS = {"int8": 1.0, "merged": 2.0}
SPLIT = "test"


def main(data: Path, folder: Path) -> None:
    if not (folder / CARD / "metrics.json").is_file():
        run([*EDGEMM, "train", CARD, "-d", data, "-o", folder / CARD])
    trained = json.loads((folder / CARD / "metrics.json").read_text(encoding="utf-8"))[SPLIT]
    figures: dict[str, Any] = {"float": {output: _recalls_of(row) for output, row in trained.items()}}
    for name, steps in RECIPES.items():
        report = _compressed(name, steps, folder / CARD / "model.yaml", data, folder / name)
        bundle = open_bundle(folder / name)
        for target in bundle.targets():
            figures[f"{name}, {target}"] = {"recalls": _recalls(bundle, data, target), "points_lost": _lost(report, target)}
    save("say_and_find", figures)


def _compressed(name: str, steps: list[dict[str, Any]], card: Path, data: Path, bundle: Path) -> dict[str, Any]:
    if not (bundle / "report.json").is_file():
        recipe = bundle.with_suffix(".yaml")
        plan = {"steps": steps, "targets": {"openvino": {}, "onnxruntime": {}}, "budgets": {"accuracy_drop_points": POINTS[name]}}
        recipe.write_text(json.dumps(plan | {"for": "size", "tune": False}), encoding="utf-8")
        run([*EDGEMM, "compress", card, "-r", recipe, "-d", data, "-o", bundle], allowed=(0, 3))
    report: dict[str, Any] = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    return report


def _recalls(bundle: Bundle, data: Path, target: str) -> dict[str, dict[str, float]]:
    answers: dict[str, list[np.ndarray]] = {name: [] for name in bundle.card.outputs}
    truth: dict[str, list[np.ndarray]] = {name: [] for name in bundle.card.outputs}
    with serving.open_model(bundle, target) as model:
        for batch in open_dataset(data, bundle.card).batches(SPLIT, 1):
            said = model.answer({name: model.embed(name, array) for name, array in batch.inputs.items()})
            for name, kept in answers.items():
                kept.append(said[name])
                truth[name].append(batch.truth[name])
    vectors = {name: np.concatenate(kept) for name, kept in answers.items()}
    found = {}
    for name, task in tasks.tasks(bundle.card).items():
        names = np.concatenate(truth[name])
        found[name] = _recalls_of({"recall_at_1": task.measure(vectors, names).value(), **task.further(vectors, names)})
    return found


def _recalls_of(row: dict[str, Any]) -> dict[str, float]:
    return {key: round(float(row[key]), 4) for key in ("recall_at_1", "recall_at_10")}


def _lost(report: dict[str, Any], target: str) -> dict[str, list[float]]:
    rows = [m for m in report["measurements"] if m["name"] == "accuracy_drop_points" and m["subject"] == "bundle" and m["target"] == target]
    return {m["output"]: [round(m[key], 2) for key in ("value", "low", "high")] for m in rows if not m.get("modalities")}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
