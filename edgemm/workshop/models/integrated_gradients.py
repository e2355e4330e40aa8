"""Integrated gradients of a torch model: what each value that ``forward`` receives adds to an answer (Sundararajan et al., 2017).

From a sample that says nothing to the row in a straight line, all inputs at once, by the midpoint rule; the parts add up to what the
answer moves. Of token ids the line goes through what the embedding makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgemm.contracts import task as tasks
from edgemm.workshop.models.fused import FusedModel, feature_names

STEPS = 32
"""Of the path; two more digits of its integral cost more than a map shows."""


@dataclass(frozen=True)
class Attributed:
    """What was found.

    Attributes:
        worth: Input -> what its values add: of a picture (height, width), of features (bands, frames), of a series (moments, channels), of
            single numbers and tokens (1, values).
        total, moved: What all of it adds up to, and how far the answer really is from that to a row that says nothing.
    """

    FAR: ClassVar[float] = 0.05

    worth: Mapping[str, np.ndarray]
    total: float
    moved: float

    @property
    def gap(self) -> float:
        """How far they are apart, as a part of the larger."""
        return abs(self.total - self.moved) / max(abs(self.total), abs(self.moved), 1e-9)


def integrated_gradients(
    model: FusedModel, inputs: Mapping[str, np.ndarray], neutral: Mapping[str, np.ndarray], output: str, place: int | None
) -> Attributed:
    """Attributions of one answer to one row.

    Args:
        inputs: Input -> one sample with its batch axis, as the graph takes it.
        neutral: The same of a row that says nothing.
        output: Whose answer.
        place: Of the label, whose log-odds are explained; None = the last number of the answer.
    """
    names = feature_names(model.card)
    with torch.no_grad():
        here, blank = (dict(zip(names, model.features(_tensors(side)), strict=True)) for side in (inputs, neutral))
    worth = {name: torch.zeros_like(here[name]) for name in model.card.inputs if here[name].is_floating_point() and here[name].dim() > 1}
    tokens = {name: torch.zeros(here[name].shape) for name in model.card.inputs if not here[name].is_floating_point()}
    ends = []
    with _embedding_along(model.module, here, blank, list(tokens)) as path:
        for step in range(STEPS):
            path.part = (step + 0.5) / STEPS
            moving = {name: (blank[name] + path.part * (here[name] - blank[name])).requires_grad_() for name in worth}
            answer = _answer(model, {**here, **moving}, output, place)
            wanted = [*moving.values(), *path.made]
            slopes = torch.autograd.grad(answer, wanted, allow_unused=True)
            for (name, _), slope in zip(moving.items(), slopes, strict=False):
                worth[name] += 0 if slope is None else slope * (here[name] - blank[name]) / STEPS
            for name, change, slope in zip(path.names, path.changes, slopes[len(moving) :], strict=True):
                tokens[name] += 0 if slope is None else (slope * change).sum(-1) / STEPS
            path.forget()
        for part in (0.0, 1.0):
            path.part = part
            with torch.no_grad():
                moved = {name: blank[name] + part * (here[name] - blank[name]) for name in worth}
                ends.append(float(_answer(model, {**here, **moved}, output, place)))
            path.forget()
    total = float(sum(float(value.sum()) for value in (*worth.values(), *tokens.values())))
    found = {name: _flat(value, model, name) for name, value in {**worth, **tokens}.items() if name in model.card.inputs}
    return Attributed(found, total, ends[1] - ends[0])


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _answer(model: FusedModel, features: Mapping[str, Tensor], output: str, place: int | None) -> Tensor:
    """Log-odds of a label, or the last number of the answer."""
    logits = model.call_module(tuple(features.values()))[output][0]
    if place is None:
        return logits.reshape(-1)[-1]
    logits = logits if logits.dim() == 1 else logits[-1]
    if tasks.of(model.card.outputs[output]).is_by_sign:
        return logits[place]
    others = torch.cat([logits[:place], logits[place + 1 :]])
    return logits[place] - torch.logsumexp(others, 0)


class _Path:
    """Where on the line from nothing to the row an embedding stands, and what it made there."""

    def __init__(self) -> None:
        self.part = 0.0
        self.names, self.made, self.changes = list[str](), list[Tensor](), list[Tensor]()

    def forget(self) -> None:
        self.names, self.made, self.changes = [], [], []


@contextmanager
def _embedding_along(module: nn.Module, here: Mapping[str, Tensor], blank: Mapping[str, Tensor], tokens: list[str]) -> Iterator[_Path]:
    """While it lasts, an embedding of an input's ids gives what stands on the path between those of nothing and of the row."""
    path = _Path()

    def hook(layer: nn.Module, args: tuple[Any, ...], made: Tensor) -> Tensor | None:
        name = next((one for one in tokens if args and args[0].shape == here[one].shape and torch.equal(args[0], here[one])), None)
        if name is None:
            return None
        forward: Callable[[Tensor], Tensor] = layer.forward
        with torch.no_grad():
            nothing = forward(blank[name])
            change = made.detach() - nothing
        along = (nothing + path.part * change).requires_grad_()
        path.names.append(name)
        path.made.append(along)
        path.changes.append(change)
        return along

    handles = [layer.register_forward_hook(hook) for layer in module.modules() if isinstance(layer, nn.Embedding)]
    try:
        yield path
    finally:
        for handle in handles:
            handle.remove()


def _flat(value: Tensor, model: FusedModel, name: str) -> np.ndarray:
    """One sample's attributions on two axes: steps and, of a picture, channels summed."""
    array = value[0].numpy().astype(np.float64)
    if model.card.inputs[name].steps:
        array = array.sum(0)
    while array.ndim > 2:
        array = array.sum(0)
    return array if array.ndim == 2 else array.reshape(1, -1)
