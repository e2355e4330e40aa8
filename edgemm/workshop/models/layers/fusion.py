"""Small parts that several fusions share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgemm.errors import CardError, nearest


class Mapped(nn.Module):
    """Brings every branch to the same width by one linear layer each.

    Args:
        widths: Input name -> width of its branch.
        width: Common width; None takes the branches as they are, which then have to agree.

    Raises:
        CardError: ``width`` is None and the branches differ.
    """

    def __init__(self, widths: Mapping[str, int], width: int | None, fusion: str) -> None:
        super().__init__()
        if width is None and len(set(widths.values())) > 1:
            listing = ", ".join(f"'{name}' {size}" for name, size in widths.items())
            raise CardError(
                f"fusion '{fusion}': the branches have different widths: {listing}.",
                why="it combines them number by number.",
                fix="give the encoders one width, or set the fusion's width: each branch is then mapped to it.",
            )
        self.width = next(iter(widths.values())) if width is None else width
        self.layers = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.items()} if width is not None else {})

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.layers[name](branch) for name, branch in branches.items()} if self.layers else branches


class BranchDropout(nn.Module):
    """In training, blanks whole branches of a sample, so that the others learn to do without.

    Keeps a branch that learns fast (a voice known by heart) from stopping the others; and a model trained so bears a missing modality.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.blank = nn.Dropout1d(share)

    def forward(self, branches: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.training or not self.blank.p:
            return branches
        return {name: self.blank(branch.unsqueeze(1)).squeeze(1) for name, branch in branches.items()}


def total(vectors: list[Tensor]) -> Tensor:
    """Sum of tensors, without the 0 that ``sum`` starts with."""
    first, *rest = vectors
    for vector in rest:
        first = first + vector
    return first


def product(vectors: list[Tensor]) -> Tensor:
    """Elementwise product of tensors."""
    first, *rest = vectors
    for vector in rest:
        first = first * vector
    return first


def require_inputs(given: Mapping[str, object], widths: Mapping[str, int], where: str) -> None:
    """Raises CardError unless ``given`` names exactly the inputs."""
    for name in given:
        if name not in widths:
            raise CardError(f"{where} names '{name}', no input of this model.", fix=nearest(str(name), widths))
    for name in widths:
        if name not in given:
            raise CardError(f"{where} lacks '{name}'.", fix=f"name every input: {', '.join(widths)}.")
