"""What an augmentation is: one way in which training changes the rows of an input, so that the model sees each anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.modality import Modality
from edgemm.errors import CardError, Mistakes

FolderPath: TypeAlias = str
"""Annotation of an option that names a folder; it is relative to the file that says so."""


class Changed(NamedTuple):
    """Rows after an augmentation.

    Attributes:
        samples: (n, *sample), new, of the dtype and shape they had.
        mirrored: bool (n,): which pictures were turned left to right; None = none can have been.
    """

    samples: np.ndarray
    mirrored: np.ndarray | None = None


class Augmentation(Protocol):
    """One augmentation with its options. A plugin is a frozen dataclass whose fields are the options that ``train`` may set.

    ``__post_init__`` checks values and raises ``CardError`` without saying where (``of`` adds that). ``MODALITIES = ("image",)`` at the
    top of its file says of which modalities it can change samples. All randomness comes from ``rng``: an epoch of a seed is the same
    again, in any number of processes.

    Attributes:
        moves: What is in a picture is somewhere else afterwards. Where an output says where things are, only ``mirrored`` rows can be
            followed; other moves are refused there.
    """

    moves: ClassVar[bool] = False

    def change(self, samples: np.ndarray, rng: np.random.Generator, part: Modality) -> Changed:
        """Samples of one input, decoded: (n, *sample) as the graph takes them.

        Args:
            samples: Left as they are.
            part: The input's modality.
        """
        ...

    def files(self) -> Sequence[Path]:
        """The files that it reads: a training depends on their content.

        Raises:
            CardError: They are not there; does not say where.
        """
        return ()


def of(name: str, options: dict[str, Any], where: str) -> Augmentation:
    """The augmentation of this name.

    Raises:
        CardError: A value is out of range; begins with ``where``. Mistakes: several are.
    """
    kind = plugins.find(Augmentation, name)
    try:
        made = kind(**plugins.parameters(options))
        made.files()
    except CardError as err:
        raise CardError(f"{where}.{name}: {err.what}", why=err.why, fix=err.fix) from err
    except Mistakes as err:
        raise Mistakes([CardError(f"{where}.{name}: {one.what}", why=one.why, fix=one.fix) for one in err.errors]) from err
    return made


def require_share(name: str, value: float, *, least: float = 0.0, most: float = 1.0) -> None:
    """Raises CardError unless a number is from ``least`` to ``most``."""
    if not least <= value <= most:
        raise CardError(f"{name} is {value!r}.", fix=f"write a number from {least:g} to {most:g}.")


def chosen(rows: int, chance: float, rng: np.random.Generator) -> np.ndarray:
    """bool (rows,): each with that chance."""
    drawn: np.ndarray = rng.random(rows) < chance
    return drawn
