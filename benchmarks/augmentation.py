"""Digits trained plainly, with augmentation, in stages, and with both: test accuracy with three seeds, the same number of steps each.

Launch: python benchmarks/augmentation.py DATA [CARD] [STEPS]    (DATA: the unpacked digits, or what few_rows.py made, with its card.yaml)
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from _results import save

from edgemm import train

SEEDS = (0, 1, 2)
AUGMENT: dict[str, Any] = {
    "augment": {
        "image": [{"crop": {"least": 0.8}}, {"rotate": {"degrees": 12}}, {"erase": {"share": 0.3}}],
        "audio": [{"shift": {"share": 0.1}}, "gain", {"noise": {"snr_db": [5, 25]}}, {"frequency_mask": {"share": 0.2}}, "time_mask"],
    },
    "modality_dropout": 0.1,
}


def stages(steps: int) -> dict[str, Any]:
    """Each branch with the fusion while the other stands still, then all together with a third of the rate."""
    quarter = steps // 4
    return {
        "stages": [
            {"freeze": ["audio"], "steps": quarter},
            {"freeze": ["image"], "steps": quarter},
            {"steps": steps - 2 * quarter, "learning_rate": 3e-4},
        ]
    }


def main(data: Path, card: str, steps: int) -> None:
    ways = {
        "plain": {"steps": steps},
        "augmented": {"steps": steps, **AUGMENT},
        "in stages": stages(steps),
        "augmented, in stages": {**stages(steps), **AUGMENT},
        "averaged (ema)": {"steps": steps, "average": "ema"},
    }
    figures: dict[str, Any] = {"steps": steps, "seeds": len(SEEDS)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, section in ways.items():
            config = Path(scratch) / "train.yaml"
            config.write_text(yaml.safe_dump(section), encoding="utf-8")
            accuracies = []
            for seed in SEEDS:
                done = train(card, data, Path(scratch) / name.replace(" ", "-") / str(seed), config=config, seed=seed)
                accuracies.append(done.metrics["test"]["digit"]["accuracy"])
                print(f"{name}, seed {seed}: {accuracies[-1]:.4f}, {done.ended}", flush=True)
            figures[name] = {"test_accuracy": accuracies, "mean": statistics.mean(accuracies), "deviation": statistics.stdev(accuracies)}
    save("augmentation", figures)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    main(place, sys.argv[2] if len(sys.argv) > 2 else "digits", int(sys.argv[3]) if len(sys.argv) > 3 else 2400)
