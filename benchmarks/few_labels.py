"""Digits of which 5% have labels: trained on those alone, with augmentation, and from branches pretrained on all rows without labels.

Also semi-supervised: `distill: {unlabeled}` on all rows, taught by the model that came of it. Test accuracy with three seeds, each with
other rows labelled; where fewer are wanted, the same with fewer.

Launch: python benchmarks/few_labels.py DATA FOLDER [EPOCHS [STEPS [SEEDS]]]    (unpacked digits; epochs without labels, steps with)
In FOLDER is what was trained: a run that was stopped goes on. The figures so far are saved after each seed.
"""

from __future__ import annotations

import csv
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from _results import save
from augmentation import AUGMENT

from edgemm import pretrain, train
from edgemm.contracts import card_file
from edgemm.contracts.step import Context
from edgemm.data.dataset import open_dataset
from edgemm.data.in_memory import open_split
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.steps.distill import distill
from edgemm.workshop.training.answers import evaluate

SHARE = 0.05
METHODS: Sequence[Any] = ("contrastive", "masked")
PASSES = 2  # over all rows, of the semi-supervised training


def main(data: Path, here: Path, epochs: int, steps: int, seeds: int) -> None:
    here.mkdir(parents=True, exist_ok=True)
    config = here / "augmented.yaml"
    config.write_text(yaml.safe_dump({"augment": AUGMENT["augment"]}), encoding="utf-8")
    rows = list(csv.DictReader((data / "manifest.csv").open(encoding="utf-8")))
    bare = [{name: cell for name, cell in row.items() if name != "digit"} for row in rows if row["split"] != "test"]
    without = _written(here / "without", bare, data)
    facts = {"labelled": SHARE, "pretraining_epochs": epochs, "steps": steps}
    accuracies: dict[str, list[float]] = {}

    def trained(name: str, card: str | Path, seed: int, how: Path | None) -> Path:
        few = _written(here / f"few-{seed}", _labelled(rows, seed), data)
        done = train(card, few, here / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}", config=how, steps=steps, seed=seed)
        _note(accuracies, name, done.metrics["test"]["digit"]["accuracy"])
        return done.folder

    for method in METHODS:
        for seed in range(seeds):
            if method == METHODS[0]:
                trained("labels alone", "digits", seed, None)
                trained("augmented", "digits", seed, config)
            pretrained = pretrain("digits", without, here / method, method=method, config=config, epochs=epochs, mixed_precision="bf16")
            after = trained(f"{method}, augmented", pretrained.folder, seed, config)
            if method == METHODS[0]:
                semi = _semi_supervised(after, here / f"few-{seed}", without, seed)
                _note(accuracies, "contrastive, augmented, then distill: {unlabeled}", semi)
            save("few_labels", {**facts, **{name: _summary(values) for name, values in accuracies.items()}})


def _summary(values: Sequence[float]) -> dict[str, Any]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"test_accuracy": list(values), "mean": statistics.mean(values), "deviation": deviation}


def _semi_supervised(folder: Path, few: Path, without: Path, seed: int) -> float:
    """Test accuracy of the model after it learned its own answers to rows without labels, with inputs taken away from it."""
    card = card_file.load(folder)
    dataset, model = open_dataset(few, card), load_model(card)
    context = Context(card, dataset, folder, teacher=model, seed=seed)
    student = distill(model, context, epochs=PASSES, unlabeled=str(without), modality_dropout=0.2, learning_rate=5e-4)
    accuracy: float = evaluate(student, open_split(dataset, "test")).measured()["digit"]["accuracy"]
    return accuracy


def _labelled(rows: Sequence[dict[str, str]], seed: int) -> list[dict[str, str]]:
    """The test rows, and a share of the others, drawn with the seed."""
    rng, kept = random.Random(seed), [row for row in rows if row["split"] == "test"]
    for split in ("train", "val"):
        there = [row for row in rows if row["split"] == split]
        kept += rng.sample(there, round(SHARE * len(there)))
    return kept


def _written(folder: Path, rows: Sequence[dict[str, str]], data: Path) -> Path:
    """A dataset folder with these rows, whose files stay where they are."""
    folder.mkdir(exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({name: str(data.resolve() / cell) if name in ("image", "audio") else cell for name, cell in row.items()})
    return folder


def _note(accuracies: dict[str, list[float]], name: str, value: float) -> None:
    accuracies.setdefault(name, []).append(value)
    print(f"{name}, seed {len(accuracies[name]) - 1}: {value:.4f}", flush=True)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[3:6]]
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(numbers + [16, 600, 3][len(numbers) :]))
