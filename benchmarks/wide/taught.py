"""Train the wide easyVQA model by a small trained one: its own labels alone need three times as long.

Launch: python benchmarks/wide/taught.py DATA RUN TEACHER    (TEACHER: what `edgemm train easyvqa -d DATA -o TEACHER` wrote)
Two epochs of the teacher's answers and of what its branches end in, then two of its answers alone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from edgemm.contracts import card_file as cards
from edgemm.contracts.step import Context
from edgemm.data import dataset as datasets
from edgemm.workshop.models.checkpoint.loading import save_model
from edgemm.workshop.steps.distill import distill
from edgemm.workshop.training.loop import seeded_model

PHASES = ({"batch_size": 16, "features": {"image": 1.0, "text": 1.0}}, {"batch_size": 32})


def main(data: str, run: str, teacher: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(Path(__file__).parent / "easyvqa.yaml", f"{scratch}/model.yaml")
        shutil.copy(f"{teacher}/tokenizer.json", scratch)
        card = cards.load(scratch)
        card = card.replace(inputs=cards.load(teacher).inputs)  # with the words it knows
        model, dataset = seeded_model(card, seed=0), datasets.open_dataset(data, card)
        for phase in PHASES:
            context = Context(card, dataset, Path(scratch), progress=lambda text, done: print(f"{done:.0%} {text}", file=sys.stderr))
            model = distill(model, context, epochs=2, teacher=teacher, mixed_precision="bf16", **phase)
        save_model(model, Path(run))


if __name__ == "__main__":
    main(*sys.argv[1:4])
