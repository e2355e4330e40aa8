"""A cascade of gates over three models that were trained apart and fused: a thumbnail decides first, then the picture, then the sound.

Launch: python benchmarks/gate_cascade.py DIGITS [EPOCHS [FOLDER]]    (digits spoiled; about 10 min; what is trained in FOLDER is taken)
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save
from late_fusion import CARD, INPUTS

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.run_yaml import parse
from edgemm.box.serving.runner import Runner

THUMB = "thumb: {modality: image, height: 10, width: 10, channels: 1, mean: [0.5], std: [0.5]}\ncolumns: {image: thumb}"
MOMENTS = 300  # of a second each
RECIPE = {
    "steps": [{"quantize": {}}],
    "targets": {"openvino": {}},
    "tune": False,  # digits are so small that judging costs more than a branch; what a cascade skips and loses is shown all the same
    "gates": [{"run": "image", "after": "thumb", "loss_points": 2}, {"run": "audio", "after": ["thumb", "image"], "loss_points": 2}],
}


def main(data: str, epochs: str = "6", kept_in: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept_in or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, line in {"thumb": THUMB, **INPUTS}.items():
            if not (folder / name / "model.yaml").is_file():
                (folder / f"{name}.yaml").write_text(CARD.format(input=line), encoding="utf-8")
                run([*EDGEMM, "train", folder / f"{name}.yaml", "-d", data, "-o", folder / name, "--epochs", epochs])
        members = [f"{name}={folder / name}" for name in ("thumb", *INPUTS)]
        head = "digit: thumb.digit, picture.digit, sound.digit"
        run([*EDGEMM, "fuse", *members, "--head", head, "-d", data, "-o", folder / "fused"])
        (folder / "cascade.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
        compress = [*EDGEMM, "compress", folder / "fused" / "model.yaml", "-r", folder / "cascade.yaml", "-d", data]
        run([*compress, "-o", folder / "cascade"], allowed=(0, 3))
        quick = ["--rounds", "2", "--launches", "0", "--no-roofline", "--json"]
        measured = json.loads(run([*EDGEMM, "benchmark", folder / "cascade", "-d", data, *quick]).output)
        figures: dict[str, Any] = {"gates": [gate.plain() for gate in open_bundle(folder / "cascade").gates("openvino")]}
        figures["test_rows"] = [{**row, "candidate": "cascade"} for row in measured["details"]["gated"]]
        lay_out(Path(data), folder / "moments")
        figures["run"] = {word: play(folder / "cascade", folder / "moments", use=word == "gated") for word in ("plain", "gated")}
    save("gate_cascade", figures)


def lay_out(data: Path, folder: Path) -> None:
    """Rows of the test split as a recording: the picture and the sound of a row under one name."""
    folder.mkdir(exist_ok=True)
    with (data / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"][:MOMENTS]
    for number, row in enumerate(rows):
        for cell in (row["image"], row["audio"]):
            shutil.copy(data / cell, folder / f"{number:04d}{Path(cell).suffix}")


def play(bundle: Path, recording: Path, *, use: bool) -> dict[str, Any]:
    """How often each branch ran in ``run``, and was skipped."""
    opened = open_bundle(bundle)
    plain = {"gates": {"use": use}, "sources": [{"folder": {"inputs": ["thumb", "image", "audio"], "path": str(recording)}}]}
    summary = Runner(opened, parse(plain, opened.card), fast=True).run(threading.Event())
    return {"decisions": summary.decisions, "ran": summary.ran, "skipped": {name: counts[0] for name, counts in summary.skipped.items()}}


if __name__ == "__main__":
    main(*sys.argv[1:4])
