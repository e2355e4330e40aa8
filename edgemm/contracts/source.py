"""What a source is: something that yields pictures, sound, texts or measurements with the time they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgemm.contracts.modality import Modality
from edgemm.contracts.stream import Numbers, Pictures, Sound, Texts

Region = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels of a picture, within it."""
Paint = Callable[[np.ndarray], None]
"""Draws on uint8 (height, width, 3), red first, in place: a picture, or a region of it, as it will be shown."""


class Frame(Protocol):
    """One picture, not yet scaled: only pictures that are inferred or shown pay for it."""

    def fitted(self, wanted: Pictures) -> np.ndarray:
        """uint8 (height, width, channels), fitted and ordered as the card says."""
        ...

    def deep(self) -> np.ndarray:
        """The picture's own values where they have more than 8 bits: (height, width) or (height, width, channels), red first.

        Raises:
            DataError: They have not.
        """
        ...

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def cost(self) -> int:
        """Pictures that must be decoded before this one can be looked at; 0 where it is."""
        ...

    def jpeg(self, width: int, *, region: Region | None = None, paint: Paint | None = None) -> bytes:
        """The picture as JPEG, at most ``width`` pixels wide.

        Args:
            region: Only this part of it.
            paint: Draws on it.
        """
        ...


@dataclass(frozen=True)
class Item:
    """One thing a source delivered.

    Attributes:
        input: The model's input it is for.
        value: A ``Frame``, float32 sound (samples,) in [-1, 1] at the card's rate, a text, or a measurement: one moment or a whole window.
        time_s: When its last part was recorded, in seconds; the feeder brings all sources onto one monotonic clock.
        discontinuity: Something is missing before this item, in all inputs of its source: no window may reach over it, and what was
            computed before it is no longer used.
    """

    input: str
    value: Frame | np.ndarray | str
    time_s: float
    discontinuity: bool = False


class Source(Protocol):
    """A source. A plugin class takes keyword-only options in ``__init__``: they are what ``run.yaml`` sets.

    ``PLACES`` at the top of its file says what it takes on the command line (``--source INPUTS=PLACE``): patterns such as ``mqtt://*``; a
    folder that is there ends in ``/``. The pattern that says most of a place counts.

    Attributes:
        inputs: The model's inputs it feeds.
        live: Items come as they happen. Otherwise it is a recording: it ends, and its times start at 0.
        notes: What is missing or odd, in words; shown in the status.
        steady: Items come all the time, so that silence means a loss; nobody need speak on a topic.
        connected: Of a source that is not steady: it is there, though nothing came yet.
        unwatched: Inputs that nobody is about to look at, as a gate says; set while it runs. Pictures of theirs may be left undecoded until
            somebody does.
    """

    inputs: list[str]
    live: bool
    notes: list[str]
    steady: bool = True
    connected: bool = False
    unwatched: frozenset[str] = frozenset()

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        """The options that a place on the command line stands for, without ``inputs``.

        Raises:
            RunError: It is of no sense here.
        """
        raise NotImplementedError

    def told_length_s(self) -> float:
        """How long a recording is, where that is known before it is played; 0 where not."""
        return 0.0

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        """Connect, and yield items until the end; called again after a loss.

        Args:
            wants: Every input of ``inputs`` with what the card says about it.

        Raises:
            RunError: It cannot be reached or read; without any password in it. The end of a live source is a loss too.
        """
        ...

    def close(self) -> None:
        """Make ``items`` end soon. Called from another thread."""
        ...

    def describe(self) -> str:
        """Where it reads from, without any password."""
        ...


def fed_by(wants: Mapping[str, Modality], kind: type[Pictures | Sound | Texts | Numbers]) -> dict[str, Modality]:
    """Those of the inputs that a stream of this kind feeds."""
    return {name: modality for name, modality in wants.items() if isinstance(modality.stream(), kind)}


def checked_inputs(inputs: Any) -> list[str]:
    """``inputs`` of an option, which may be one name or a list of them."""
    return [inputs] if isinstance(inputs, str) else [str(name) for name in inputs]
