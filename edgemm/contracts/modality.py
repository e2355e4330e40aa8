"""What a modality is: one kind of input, from a dataset cell or a device to what the model's ``forward`` receives."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.card import Card, Input
from edgemm.contracts.frontend_ops import Op
from edgemm.contracts.specs import BATCH, TensorSpec
from edgemm.errors import CardError, DataError, EdgemmError, Mistakes


class Modality(Protocol):
    """One input's modality with its options. A plugin is a frozen dataclass whose fields are the options a card may set.

    ``__post_init__`` checks values and raises ``CardError`` without naming the input (``of`` adds the name). All shapes here are
    those of one sample: no batch axis, no ``steps`` axis. The methods below that have a body are defaults a plugin may keep.
    """

    def dtype(self) -> str:
        """numpy dtype name of what the graph takes."""
        ...

    def shape(self) -> tuple[int | str, ...]:
        """Shape of one sample of what the graph takes; a string names a free axis."""
        ...

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """Turn a dataset cell (a path relative to ``folder``, the text itself, numbers, an array) into one sample.

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

    def batch_axis(self) -> int | None:
        """Which axis of the graph's tensor counts samples; None where no axis does (only ``tensor`` may differ from 0)."""
        return 0

    def absent(self) -> np.ndarray:
        """The sample that stands in for an empty cell of an ``optional`` input."""
        return np.zeros(_fixed(self.shape()), self.dtype())

    def initial(self) -> np.ndarray | None:
        """The sample used where the dataset has no column for this input; None where a column is needed."""
        return None

    def file(self, cell: Any) -> str | None:
        """The file a cell names, for the dataset's fingerprint; None where the cell holds the value itself."""
        return None


def of(spec: Input, *, folder: Path | None = None) -> Modality:
    """The modality object of a card's input.

    Args:
        folder: The card's folder; options that are paths (``tokenizer``) are relative to it.

    Raises:
        CardError: A value is out of range; names the input. Mistakes: several are.
    """
    kind = plugins.find(Modality, spec.modality)
    given = dict(spec.options)
    if given.get("tokenizer") and folder is not None:
        given["tokenizer"] = str(folder / given["tokenizer"])
    try:
        return kind(**given)
    except CardError as err:
        raise _named(err, spec) from err
    except Mistakes as err:
        raise Mistakes([_named(error, spec) for error in err.errors]) from err


def _named(err: EdgemmError, spec: Input) -> CardError:
    return CardError(f"inputs.{spec.name}: {err.what}", why=err.why, fix=err.fix)


def modalities(card: Card) -> Mapping[str, Modality]:
    """Every input's modality object, in card order."""
    return {name: of(spec, folder=card.folder) for name, spec in card.inputs.items()}


def input_specs(card: Card) -> list[TensorSpec]:
    """What the exported graph takes, in card order: (batch[, steps], *sample).

    A ``tensor`` has its batch axis where its card says, or none.
    """
    return [_spec(name, modality, card.inputs[name].steps) for name, modality in modalities(card).items()]


def _spec(name: str, modality: Modality, steps: int | None) -> TensorSpec:
    shape: list[int | str] = list(modality.shape())
    if steps:
        shape.insert(0, steps)
    axis = modality.batch_axis()
    if axis is not None:
        shape.insert(axis, BATCH)
    return TensorSpec(name, modality.dtype(), tuple(shape))


@functools.cache
def leaf(module: str, what: str) -> Any:
    """Import ``edgemm.data.modalities.<module>``, which needs a package of an extra, at first use.

    Raises:
        MissingExtra: The package is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(f"edgemm.data.modalities.{module}")
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, what) from err


def existing(cell: str, folder: Path) -> Path:
    """The file that a cell names.

    Raises:
        DataError: There is none.
    """
    path = folder / cell.strip()
    if not path.is_file():
        why = f"'{path}' is a folder." if path.is_dir() else f"'{path}' does not exist."
        raise DataError(f"'{cell}' is missing.", why=why, fix="add the file, or mend the path; paths are relative to the manifest.")
    return path


def _fixed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(1 if isinstance(size, str) else size for size in shape)
