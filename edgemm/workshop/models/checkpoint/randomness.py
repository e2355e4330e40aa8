"""What a factory draws at random: the same at every build of a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

GENERATOR = torch.default_generator
"""Held by itself: ``origin`` keeps a factory's own ``torch.manual_seed`` from it."""


@contextmanager
def drawn_from(seed: int | None) -> Iterator[Callable[[], None]]:
    """Random numbers of torch, numpy and Python come from ``seed``, and afterwards go on where they were; None = as they come.

    Yields:
        A function that begins with ``seed`` again: importing a module draws at its first import only.
    """
    if seed is None:
        yield lambda: None
        return
    before = random.getstate(), np.random.get_state(), GENERATOR.get_state()

    def begin() -> None:
        random.seed(seed)
        np.random.seed(seed)
        GENERATOR.manual_seed(seed)

    begin()
    try:
        yield begin
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        GENERATOR.set_state(before[2])
