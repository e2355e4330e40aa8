"""A rung of the parity ladder: two forms of a model compared, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Difference:
    """How far a tensor is from its reference; in a report that was read, nan stands for what is not finite.

    Attributes:
        max_abs: Largest absolute difference; inf where one side is not finite and the other is.
        sqnr_db: Signal power over error power in dB; inf where equal.
        scale: Largest absolute value of the reference.
    """

    max_abs: float
    sqnr_db: float
    scale: float

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``scale``."""
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class Culprit:
    """Where the first difference arises; ``node`` "" where no single one could be named."""

    branch: str
    node: str = ""


@dataclass(frozen=True)
class Rung:
    """One comparison of two forms of the model.

    Attributes:
        outputs: Tensor that the model answers with -> difference; and where tensors tell too little, ``<output> <word>``, such as
            ``objects boxes`` (``Task.compared``).
        branches: Branch -> difference of the worst tensor it ends in.
        culprit: Where the first difference arises, if the rung broke and it could be found.
        note: What a reader should know, in words.
    """

    name: str
    reference: str
    candidate: str
    outputs: Mapping[str, Difference]
    branches: Mapping[str, Difference] = field(default_factory=dict)
    ok: bool = True
    culprit: Culprit | None = None
    note: str = ""
