"""What an array must look like: the contract that travels from the card to the box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.errors import SpecMismatch, nearest

Branch = str
"""A branch selector of a recipe: an input name, a modality name, ``fusion``, ``head`` or ``head:<output>``."""

Retrainer = str
"""Name of a step that trains with quantization: one whose file says ``TRAINS_QUANTIZED``."""

BATCH = "batch"
"""The symbolic name of the first axis of every input and output."""

SHUT = -1e4
"""What is added to a score is at most so much where nothing shall be looked at: -inf, the least float, -1e9, -1e4."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one input or output.

    Attributes:
        name: Tensor name in the graph, and in ``Session.run``.
        dtype: numpy name, such as ``float32``.
        shape: One entry an axis; a string names an axis that may take any size (``batch``, ``length``).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def check(self, array: np.ndarray) -> None:
        """Accept ``array`` only if its dtype and shape fit.

        Raises:
            SpecMismatch: Naming this tensor, what it wants and what it got.
        """
        if not isinstance(array, np.ndarray):
            raise SpecMismatch(
                f"input '{self.name}' wants {self}, got a {type(array).__name__}.",
                why="inputs are numpy arrays.",
                fix=f"pass '{self.name}' as np.asarray(value, '{self.dtype}') of shape {show_shape(self.shape)}.",
            )
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(self.shape, array.shape, strict=True)
        )
        if fits and array.dtype == np.dtype(self.dtype):
            return
        raise SpecMismatch(
            f"input '{self.name}' wants {self}, got {show_shape(array.shape)} {array.dtype}.",
            why="shape or dtype differs from what the model was exported with.",
            fix=f"pass '{self.name}' as a numpy array of dtype {self.dtype} and shape {show_shape(self.shape)}.",
        )

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"{show_shape(self.shape)} {self.dtype}"


def show_shape(shape: Sequence[int | str]) -> str:
    """A shape as people write it: ``(batch, 64, 64, 3)``."""
    return f"({', '.join(str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def check_feed(specs: Sequence[TensorSpec], feed: Mapping[str, np.ndarray]) -> None:
    """Check a whole call: every input present, none unknown, each fitting, all of one batch size.

    Raises:
        SpecMismatch: Naming the first input that does not fit.
    """
    for spec in specs:
        if spec.name not in feed:
            raise SpecMismatch(
                f"input '{spec.name}' is missing.",
                why=f"the model takes {', '.join(repr(s.name) for s in specs)}; the call has {sorted(feed) or 'nothing'}.",
                fix=f"add '{spec.name}': {spec}.",
            )
        spec.check(feed[spec.name])
    names = {spec.name for spec in specs}
    for name in feed:
        if name not in names:
            raise SpecMismatch(f"input '{name}' is not one of the model's.", fix=nearest(name, names))
    sizes = {spec.name: feed[spec.name].shape[0] for spec in specs if spec.shape and spec.shape[0] == BATCH}
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
        raise SpecMismatch(
            f"inputs disagree about the batch size: {listing}.",
            why="every input's first axis counts the same samples.",
            fix="pass the same number of samples for every input.",
        )
