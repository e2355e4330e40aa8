"""What a modality is: one kind of input, from a dataset cell or a device to what the model's ``forward`` receives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemm import plugins
from edgemm.card import Card, Input
from edgemm.errors import CardError
from edgemm.modalities._ops import Op
from edgemm.specs import BATCH, TensorSpec


class Modality(Protocol):
    """One input's modality with its options. A plugin is a frozen dataclass whose fields are the options a card may set.

    ``__post_init__`` checks values and raises ``CardError`` without naming the input (``of`` adds the name). All shapes here are
    those of one sample: no batch axis, no ``steps`` axis.
    """

    def dtype(self) -> str:
        """numpy dtype name of what the graph takes."""
        ...

    def shape(self) -> tuple[int | str, ...]:
        """Shape of one sample of what the graph takes; a string names a free axis."""
        ...

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """Turn a dataset cell (a path relative to ``folder``, the text itself, numbers) into one sample.

        Raises:
            DataError: The cell cannot be read; the text does not yet name row and column (``data`` adds them).
        """
        ...

    def frontend(self) -> list[Op]:
        """Fixed operations from a batch of samples to what ``forward`` receives; [] when nothing is to be done."""
        ...

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """One plausible sample, for shape checks and for models without data."""
        ...


def of(spec: Input, *, folder: Path | None = None) -> Modality:
    """The modality object of a card's input.

    Args:
        folder: The card's folder; options that are paths (``tokenizer``) are relative to it.

    Raises:
        CardError: A value is out of range; names the input.
    """
    kind = plugins.find(Modality, spec.modality)
    given = dict(spec.options)
    if "tokenizer" in given and folder is not None:
        given["tokenizer"] = str(folder / given["tokenizer"])
    try:
        return kind(**given)
    except CardError as err:
        raise CardError(f"inputs.{spec.name}: {err.what}", why=err.why, fix=err.fix) from err


def modalities(card: Card) -> Mapping[str, Modality]:
    """Every input's modality object, in card order."""
    return {name: of(spec, folder=card.folder) for name, spec in card.inputs.items()}


def input_specs(card: Card) -> list[TensorSpec]:
    """What the exported graph takes, in card order: (batch[, steps], *sample)."""
    specs = []
    for name, modality in modalities(card).items():
        steps = card.inputs[name].steps
        specs.append(TensorSpec(name, modality.dtype(), (BATCH, *((steps,) if steps else ()), *modality.shape())))
    return specs
