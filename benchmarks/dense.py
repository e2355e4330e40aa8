"""Boxes, a set, masks and points that another sense asks for: float, INT8 on two runtimes, half of the work gone; and with a sense away.

Launch: python benchmarks/dense.py SPOKEN_BOX ASKED_SHAPE FOLDER [CARD | int8 | half ...]    (datasets; what is in FOLDER is taken)

The shipped cards `spoken-box`, `asked-shape` and `asked-mask` are trained as `edgemm train CARD -d DATA` does it, compressed to INT8 for
OpenVINO and ONNX Runtime, and once more with half of the multiply-accumulates pruned and distilled. Every figure is of the test rows, on
the target; what is lost has a paired 95% interval. Times are not taken: `edgemm benchmark` does that on a quiet machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save

QUANTIZE = {"quantize": {"method": "ptq", "calibration_samples": 300}}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "int8": [QUANTIZE],
    "half": [{"prune": {"macs_ratio": 0.5}}, {"distill": {}}, QUANTIZE],
}
TARGETS = ("openvino", "onnxruntime")
CARDS = {"spoken-box": "spoken", "asked-shape": "asked", "asked-mask": "asked"}
METRICS = ("map", "miou", "oks_map")
POINTS = {"int8": 1.0, "half": 2.0}  # what may be lost


def main(spoken: str, asked: str, kept_in: str, *only: str) -> None:
    folder, data = Path(kept_in), {"spoken": spoken, "asked": asked}
    recipes = {name: steps for name, steps in RECIPES.items() if name in only} or RECIPES
    figures = {}
    for card in [card for card in CARDS if card in only] or CARDS:
        rows = data[CARDS[card]]
        if not (folder / card / "report.json").is_file():
            run([*EDGEMM, "train", card, "-d", rows, "-o", folder / card])
        reports = {name: _compressed(name, steps, folder / card, rows, folder / f"{card}-{name}") for name, steps in recipes.items()}
        epochs = len(json.loads((folder / card / "curves.json").read_text(encoding="utf-8"))["loss/train"])
        shown = _outputs(next(iter(reports.values())))
        figures |= {f"{card} {output}": {"epochs": epochs, **_figures(reports, output)} for output in shown}
    path = save("dense", figures, beside=True)
    (path.parent / "dense.md").write_text(_table(json.loads(path.read_text(encoding="utf-8"))["dense"]), encoding="utf-8")


def _compressed(name: str, steps: list[dict[str, Any]], trained: Path, data: str, bundle: Path) -> dict[str, Any]:
    """The report of the bundle; a budget that is missed is a figure, not an error of this program."""
    if not (bundle / "report.json").is_file():
        recipe = bundle.with_suffix(".yaml")
        plan = {"steps": steps, "targets": {target: {} for target in TARGETS}, "budgets": {"accuracy_drop_points": POINTS[name]}}
        recipe.write_text(json.dumps(plan | {"for": "size", "tune": False}), encoding="utf-8")
        run([*EDGEMM, "compress", trained / "model.yaml", "-r", recipe, "-d", data, "-o", bundle], allowed=(0, 3))
    return json.loads((bundle / "report.json").read_text(encoding="utf-8"))


def _outputs(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(m["output"] for m in report["measurements"] if m["name"] in METRICS))


def _figures(reports: dict[str, dict[str, Any]], output: str) -> dict[str, Any]:
    """One output's metric in float, with senses away, and of every bundle on every target with what it lost."""
    of_output = {name: [m for m in report["measurements"] if m.get("output") == output] for name, report in reports.items()}
    whole = [m for m in next(iter(of_output.values())) if m["subject"] == "original" and m["name"] in METRICS]
    metric = next(m for m in whole if not m.get("modalities"))
    away = {" ".join(m["modalities"]): round(m["value"], 4) for m in whole if m.get("modalities")}
    found: dict[str, Any] = {"metric": metric["name"], "float": _kept(metric), "only": away}
    for name, rows in of_output.items():
        for target in TARGETS:
            bundle = [m for m in rows if m["subject"] == "bundle" and m["target"] == target and not m.get("modalities")]
            after = next((m for m in bundle if m["name"] == metric["name"]), None)
            lost = next((m for m in bundle if m["name"] == "accuracy_drop_points"), None)
            if after and lost:
                found[f"{name} {target}"] = {**_kept(after), "lost": _kept(lost), "precision": after.get("precision_ran")}
    return found


def _kept(row: dict[str, Any]) -> dict[str, float]:
    return {key: row[key] if row[key] is None or key == "n" else round(row[key], 4) for key in ("value", "low", "high", "n")}


def _table(figures: dict[str, dict[str, Any]]) -> str:
    columns = {
        f"{name} {target}": f"{words}, {target}"
        for name, words in (("int8", "INT8"), ("half", "half, distilled, INT8"))
        for target in TARGETS
    }
    columns = {key: words for key, words in columns.items() if any(key in row for row in figures.values())}
    lines = [
        "# Dense outputs that two senses tell together",
        "",
        "Made by `benchmarks/dense.py`: shipped cards, test rows, each on its target. In brackets points lost, paired 95% interval.",
        "",
        f"| output | metric | epochs | float | one sense alone | {' | '.join(columns.values())} |",
        f"|{'---|' * (5 + len(columns))}",
    ]
    for name, row in figures.items():
        alone = ", ".join(f"{sense} {value:.3f}" for sense, value in row["only"].items() if " " not in sense)
        cells = [_cell(row[key]) if key in row else "" for key in columns]
        known = row["float"]
        shown = f"{known['value']:.4f} [{known['low']:.3f}, {known['high']:.3f}]"
        lines.append(f"| {name} | {row['metric']} | {row['epochs']} | {shown} | {alone} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any]) -> str:
    lost = row["lost"]
    return f"{row['value']:.4f} ({lost['value']:.2f} [{lost['low']:.2f}, {lost['high']:.2f}])"


if __name__ == "__main__":
    main(*sys.argv[1:])
