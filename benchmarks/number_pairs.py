"""Pictures of numbers and their names, for a two-tower model: three handwritten digits side by side, and three words.

Launch: python benchmarks/number_pairs.py DIGITS OUT    (DIGITS: the image+audio digits folder; OUT: gets a card and train, val and test)
The digits of a split are those of the folder's split. Of val and test no number occurs twice, so that each picture has one right name.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = {"train": 4000, "val": 500, "test": 500}
CARD = """\
factory: models:image-text-two-tower
kwargs:
  encoders:
    image: {vit: {patch: 7, embedding: 96, layers: 4, heads: 4, width: 128}}
    text: {transformer: {embedding: 96, layers: 2, heads: 4, width: 128}}
  fusion: {towers: {}}
  heads:
    embedding: {embedding: {size: 96}}
inputs:
  image: {modality: image, height: 28, width: 84, channels: 1, mean: [0.5], std: [0.5]}
  text: {modality: text, vocab: 16, length: 4, mask: true}
outputs:
  image_vector: {task: embedding, pair: text_vector}
  text_vector: {task: embedding, pair: image_vector}
"""


def main(digits: str, out: str) -> None:
    from PIL import Image

    folder, rng = Path(out), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (Path(digits) / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    for split, count in ROWS.items():
        files: dict[int, list[Path]] = {}
        for row in rows:
            if row["split"] == split:
                files.setdefault(int(row["digit"]), []).append(Path(digits) / row["image"])
        pictures = {digit: [np.asarray(Image.open(path), np.uint8) for path in paths] for digit, paths in files.items()}
        numbers = rng.choice(1000, count, replace=split == "train")
        drawn = [[(number // place) % 10 for place in (100, 10, 1)] for number in numbers]
        image = np.stack([np.concatenate([pictures[d][rng.integers(len(pictures[d]))] for d in three], 1) for three in drawn])[..., None]
        text = np.array([" ".join(WORDS[d] for d in three) for three in drawn])
        np.savez_compressed(folder / f"{split}.npz", image=image, text=text)
    (folder / "model.yaml").write_text(CARD, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
