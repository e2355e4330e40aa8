"""Five folds of a small data set, 1,330 rows of digits: a gated model plainly, and against it augmented.

Launch: python benchmarks/folds.py DATA [STEPS]    (DATA: what few_rows.py made, with its card.yaml; 600 steps a fold: a quarter of an hour)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from _results import save
from augmentation import AUGMENT

from edgemm import train

FOLDS = 5


def main(data: Path, steps: int) -> None:
    figures: dict[str, Any] = {"folds": FOLDS, "steps": steps}
    with tempfile.TemporaryDirectory() as scratch:
        against = None
        for name, section in (("plain", {}), ("augmented", AUGMENT)):
            config, folder = Path(scratch) / f"{name}.yaml", Path(scratch) / name
            config.write_text(yaml.safe_dump({"steps": steps, **section}), encoding="utf-8")
            done = train(data / "card.yaml", data, folder, config=config, folds=FOLDS, against=against)
            print(done, flush=True)
            figures[name] = done.to_dict()["outputs"]["digit"]
            against = folder
        figures["augmented, in pairs"] = done.to_dict()["against"]["digit"]
    save("folds", figures)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 600)
