"""Whether an answer that is read by its sign can have either: a chance, or the logarithm of one, would always mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from edgemm.contracts import task as tasks
from edgemm.graph.chances import LAST, SHIFTS, side_of
from edgemm.workshop.models.fused import FusedModel

WEIGHTED = ("addmm", "mm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear", "convolution", "mkldnn_rnn_layer")
"""torch's names of operators that sum by weights: what goes into the functions behind them may be any number."""

Features = tuple[Tensor, ...]


def stuck(model: FusedModel, features: Features) -> tuple[str, str] | None:
    """An output that is read by its sign and has but one, whatever the model's last layers sum up to; None where there is none.

    Args:
        features: Of several rows.

    Returns:
        Its name, and the side of 0 on which it never is: ``below``, as a chance, or ``above``, as the logarithm of one.
    """
    with _Shifting() as counting:
        sides = _sides(model.call_module(features), model)
    for number in range(counting.count - 1, max(counting.count - 1 - LAST, -1), -1):
        for shift in SHIFTS:
            if not any(sides.values()):
                return None
            with _Shifting(number, shift):
                shifted = _sides(model.call_module(features), model)
            sides = {name: side & shifted[name] for name, side in sides.items()}
    return next(((name, min(side)) for name, side in sides.items() if side and counting.count), None)


def _sides(answers: Mapping[str, Tensor], model: FusedModel) -> dict[str, set[str]]:
    outputs = model.card.outputs
    return {name: side_of(tasks.of(outputs[name]), value.float().numpy()) for name, value in answers.items() if name in outputs}


class _Shifting(TorchDispatchMode):
    """Counts operators that sum by weights, and adds noise to what the one of a number returns."""

    def __init__(self, number: int | None = None, shift: float = 0.0) -> None:
        super().__init__()
        self._number, self._shift, self.count = number, shift, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if func._schema.name.partition("::")[2] not in WEIGHTED:
            return returned
        self.count += 1
        if self.count - 1 != self._number:
            return returned
        first, *rest = returned if isinstance(returned, tuple) else (returned,)
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0), dtype=first.dtype)
        return (first + self._shift * noise, *rest) if rest else first + self._shift * noise
