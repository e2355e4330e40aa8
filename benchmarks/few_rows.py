"""A small data set of the digits, 1,050 train, 280 val and 420 test rows of the speakers that train has, no recording in two splits, and a
card for it: a gated model of depthwise convolutions and a GRU, its front-end on windows of 1,024 samples.

Launch: python benchmarks/few_rows.py DATA OUT    (DATA: the unpacked digits; OUT: a folder that does not exist)
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

ROWS = {"train": 1050, "val": 280, "test": 420}
COLUMNS = ("image", "audio", "digit")
CARD = """\
factory: models:image-audio-gated
kwargs:
  encoders:
    image: {depthwise_cnn: {channels: [32, 64, 128], width: 128}}
    audio: {conv_gru: {channels: [64, 64], hidden: 64, width: 128, input_dropout: 0.1, dropout: 0.3}}
  fusion: {gated: {gate: scalar, width: 128, dropout: 0.1}}
inputs:
  image: {modality: image, height: 28, width: 28, channels: 1, mean: [0.5], std: [0.5]}
  audio:
    {modality: audio, rate_hz: 8000, seconds: 1.0, features: {log_mel: {mels: 40, window_ms: 128, hop_ms: 10, normalize: clip}}}
outputs:
  digit: {task: classification, labels: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}
"""


def main(data: Path, out: Path) -> None:
    with open(data / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    out.mkdir(parents=True)
    (out / "card.yaml").write_text(CARD, encoding="utf-8")
    whose: dict[str, str] = {}  # recording -> the split that has it
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("split", *COLUMNS))
        left = iter(rows)
        for split, count in ROWS.items():
            for row in left:
                if whose.setdefault(row["audio"], split) != split:
                    continue
                writer.writerow((split, *(os.path.relpath(data / row[name], out) if name != "digit" else row[name] for name in COLUMNS)))
                count -= 1
                if not count:
                    break


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
