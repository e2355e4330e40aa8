"""Where a training is written: what may be replaced there, and whether it is done already."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.errors import OutputError
from edgemm.store.artifact import require_writable

STATE, LAST_GOOD, OPTIONS, ANSWERS = ".training", "last_good", "train.yaml", "answers.npz"
REPEATED = "test_repeated"
"""Metrics of test rows that were answered several times."""
SPLITS_TOLD = ("val", "test", REPEATED)
WRITTEN = (
    "model.yaml",
    "weights.safetensors",
    "config.json",
    "metrics.json",
    "curves.json",
    "report.json",
    "report.html",
    OPTIONS,
    ANSWERS,
    STATE,
    LAST_GOOD,
)


@dataclass(frozen=True)
class Training:
    """What ``train`` wrote.

    Attributes:
        folder: Holds model.yaml, weights.safetensors, metrics.json, curves.json, report.html and report.json.
        metrics: ``val`` and, where there is one, ``test`` -> output -> name -> value; with ``repeats`` also ``test_repeated``.
        best_epoch: Whose weights were kept, counted from 1.
        ended: After which epoch it ended, and why, in words.
        goodness: Mean over the outputs of what is guarded on val, 1 at best; by it the best epoch was chosen. NaN without val.
        reused: True where the folder already held the result of this very command.
    """

    folder: Path
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    best_epoch: int
    ended: str = ""
    goodness: float = math.nan
    reused: bool = False

    @property
    def card(self) -> Path:
        return self.folder / "model.yaml"

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "best_epoch": self.best_epoch, "ended": self.ended, "metrics": self.metrics}

    def __str__(self) -> str:
        """The guarded metric of every output on test (else val), with its interval."""
        split = "test" if "test" in self.metrics else "val"
        lines = []
        for output, values in self.metrics.get(split, {}).items():
            name, value = next(iter(values.items()))
            interval = "" if values.get("low") is None else f" [{values['low']:.4f}, {values['high']:.4f}]"
            lines.append(f"{split} {name} of {output}: {value:.4f}{interval}, {values['n']} rows")
        return "\n".join(lines)


def require_own(folder: Path, *, written: Sequence[str] = WRITTEN) -> None:
    """Refuse to replace what no training wrote.

    Args:
        written: Names that one writes.

    Raises:
        OutputError: Not a folder, not writable, or holding something else.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", fix="choose another place with -o.")
    foreign = sorted(
        path.name
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name not in written and not path.name.endswith("tokenizer.json")
    )
    if foreign:
        raise OutputError(
            f"{folder} holds '{foreign[0]}', which no training wrote.",
            why="the folder is replaced as a whole.",
            fix="choose an empty or new folder with -o.",
        )
    require_writable(folder)


def finished(folder: Path, key: str) -> Training | None:
    """The result in ``folder``, if it is this command's."""
    try:
        plain = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if plain["key"] == key and (folder / "model.yaml").is_file() and (folder / "weights.safetensors").is_file():
            metrics = {split: plain[split] for split in SPLITS_TOLD if split in plain}
            return Training(folder, metrics, plain["best_epoch"], plain["ended"], _number(plain["goodness"]), reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _number(value: float | None) -> float:
    """A number as JSON keeps it, where what is none is null."""
    return math.nan if value is None else float(value)
