"""What a compression step is given besides the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.report import Measurement
from edgemm.contracts.target import Numerics


def silent(what: str, done: float) -> None:
    """A progress callback that shows nothing."""


def unheard(text: str) -> None:
    """A note that nobody reads."""


@dataclass(frozen=True)
class Context:
    """Everything a step may look at. A step is ``def <name>(model, ctx, *, options) -> model`` and leaves ``model`` alone.

    Attributes:
        dataset: Where samples come from; None = seeded synthetic ones of the card's modalities.
        branches: ``graph.branches.Branches`` of the graph a graph step works on; None = the step finds them itself.
        target: Name of the target this graph is made for; for a torch step the recipe's first.
        numerics: What Q/DQ that target wants.
        teacher: The model before any compression (a ``FusedModel``), in eval mode; torch steps only.
        measure: Exports, compiles and times a model on ``target`` in a process of its own; has ``latency_p50_ms``. What later
            models take is told as of the machine at the first: that one runs beside them. Torch steps only.
        note: Takes a sentence that the user and the report are shown.
        scratch: A folder that may be written to and is removed afterwards.
        progress: Called with what is going on and how much of it is done, 0 to 1.
        facts: What the step found worth telling (counts, seconds); the step adds to it, the report shows it.
    """

    card: Card
    dataset: Dataset | None
    scratch: Path
    target: str = "onnxruntime"
    numerics: Numerics = field(default_factory=lambda: Numerics("mixed"))
    branches: Any = None
    seed: int = 0
    progress: Callable[[str, float], None] = silent
    note: Callable[[str], None] = unheard
    teacher: Any = None
    measure: Callable[[Any], list[Measurement]] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
