"""No fusion: every output takes a branch of its own, as in two-tower retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from edgemm.errors import CardError, nearest
from edgemm.workshop.models.protocols import Fusion


class Towers(Fusion):
    """The branches never meet; the parts of the model run apart, for instance texts once and pictures as they come.

    Args:
        branches: Output name -> input name. None pairs outputs and inputs in card order.

    Raises:
        CardError: An output has no branch, or a name is unknown.
    """

    def __init__(self, widths: Mapping[str, int], outputs: Sequence[str], *, branches: dict[str, str] | None = None) -> None:
        super().__init__(widths, outputs)
        if branches is None and len(outputs) != len(widths):
            raise CardError(
                f"fusion 'towers': {len(outputs)} outputs cannot be paired with {len(widths)} inputs.",
                why="without 'branches' the first output takes the first input, and so on.",
                fix="write branches: {<output>: <input>} for every output.",
            )
        self.branches = dict(zip(outputs, widths, strict=True)) if branches is None else branches
        for output in outputs:
            if output not in self.branches:
                raise CardError(f"fusion 'towers': branches lacks output '{output}'.", fix=f"add {output}: <input>.")
        for output, name in self.branches.items():
            if output not in outputs:
                raise CardError(f"fusion 'towers': branches names '{output}', no output of this model.", fix=nearest(output, outputs))
            if name not in widths:
                raise CardError(f"fusion 'towers': branches.{output} names '{name}', no input of this model.", fix=nearest(name, widths))
        self.widths = {output: widths[name] for output, name in self.branches.items()}

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        return {output: branches[name] for output, name in self.branches.items()}

    def width_for(self, output: str) -> int:
        return self.widths[output]
