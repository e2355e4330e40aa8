"""Values that nobody has given a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgemm.contracts.task import Arrays, Statistics, Task
from edgemm.data.scoring import SignalToNoise


@dataclass(frozen=True)
class Tensor(Task):
    """An array of any shape (n, ...). It has no truth in the data; where a reference's answers are given, it is compared with them."""

    is_opaque: ClassVar[bool] = True

    @property
    def has_truth(self) -> bool:
        return False

    @property
    def is_scored(self) -> bool:
        return False

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        assert truth is not None
        return SignalToNoise(of=self.name, reference=truth, other=answers[self.name])
