"""Digits heard and seen by models that were trained apart, fused late, compressed: each alone, the joint, calibration, beside end to end.

Launch: python benchmarks/late_fusion.py DIGITS [EPOCHS [FOLDER]]    (the dataset spoiled; about 10 min; trained models in FOLDER are taken)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _process import EDGEMM, run
from _results import save

CARD = """
factory: models:digits
inputs:
  {input}
outputs:
  digit: {{task: classification, labels: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}}
"""
INPUTS = {
    "picture": "image: {modality: image, height: 28, width: 28, channels: 1, mean: [0.5], std: [0.5]}",
    "sound": "audio: {modality: audio, rate_hz: 8000, seconds: 1.0, features: {log_mel: {mels: 40, window_ms: 32, hop_ms: 10, fmin_hz: 50, "
    "normalize: clip}}}",
}
FEEDS = {"picture": ("image",), "sound": ("audio",), "picture+sound": ("image", "audio")}


def main(data: str, epochs: str = "12", kept_in: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept_in or scratch)
        for name, line in INPUTS.items():
            (folder / f"{name}.yaml").write_text(CARD.format(input=line), encoding="utf-8")
            run([*EDGEMM, "train", folder / f"{name}.yaml", "-d", data, "-o", folder / name, "--epochs", epochs])
        run([*EDGEMM, "train", "digits", "-d", data, "-o", folder / "whole", "--epochs", epochs])
        members = [f"{name}={folder / name}" for name in INPUTS]
        head = "digit: picture.digit, sound.digit"
        fused = run([*EDGEMM, "fuse", *members, "--head", head, "-d", data, "-o", folder / "fused"])
        card = folder / "fused" / "model.yaml"
        compressed = run([*EDGEMM, "compress", card, "-r", "openvino-int8", "-d", data, "-o", folder / "bundle"], allowed=(0, 3))
        reports = {name: _report(folder / name) for name in ("whole", "fused", "bundle")}
    whole = next(m for m in reports["whole"]["measurements"] if m["name"] == "accuracy")
    figures = {"epochs": int(epochs), "fuse_s": fused.seconds, "compress_s": compressed.seconds, "end_to_end": _kept(whole)}
    figures["trained"] = {m["candidate"]: _kept(m) for m in reports["fused"]["measurements"]}
    figures["int8"] = {name: _kept(_subset(reports["bundle"], feeds)) for name, feeds in FEEDS.items()}
    figures["ece"] = {row["form"]: row["known"]["ece"] for name in ("fused", "bundle") for row in reports[name]["details"]["calibration"]}
    figures["notes"] = reports["fused"]["details"]["notes"]
    save("late_fusion", figures)


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _subset(report: dict[str, Any], inputs: tuple[str, ...]) -> dict[str, Any]:
    rows = (m for m in report["measurements"] if m["name"] == "accuracy" and m["subject"] == "bundle")
    return next(m for m in rows if tuple(m.get("modalities") or ()) == inputs)


def _kept(row: dict[str, Any]) -> dict[str, float]:
    return {key: row[key] for key in ("value", "low", "high", "n")}


if __name__ == "__main__":
    main(*sys.argv[1:4])
