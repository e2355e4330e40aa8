"""Tokens merged between the layers of a transformer, by hooks.

Hooks, and no wrappers: parameters and submodules keep their names, so that weights, other steps' records and a teacher's layers still fit.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgemm.workshop.merging.matching import assignment, going
from edgemm.workshop.models.towers import Tower


@dataclass
class _Carried:
    """What goes from layer to layer of one call.

    Attributes:
        size: (N, T), how many tokens each one stands for.
        cover: (N, tokens at the start, T), 1 where a token is part of one.
        key: (N, T, width), of the layer that is running.
    """

    size: Tensor | None = None
    cover: Tensor | None = None
    key: Tensor | None = None


@dataclass
class Merge:
    """The hooks of one tower; an object, so that a copy of the model has its own.

    Attributes:
        count: Tokens that go after each layer but the last.
        leave: None, or how many stay: where no more are left nothing goes any more.
        protected: First tokens that stay by themselves.
        is_packed: Whether the keys are the middle third of what their layer makes.
    """

    count: int
    protected: int
    mask: str
    is_packed: bool
    leave: int | None = None
    carried: _Carried = field(default_factory=_Carried)

    def attach(self, module: nn.Module, tower: Tower) -> None:
        """Let ``module`` merge; after the last layer every token is where it was, with the value of the one it became part of."""
        for number, (layer, key) in enumerate(zip(tower.layers, tower.keys, strict=True)):
            is_last = number == len(tower.layers) - 1
            part = module.get_submodule(layer)
            if number:
                part.register_forward_pre_hook(_Weigh(self), with_kwargs=True)
            if not is_last:
                module.get_submodule(key).register_forward_hook(_Keep(self))
            part.register_forward_hook(_Spread(self) if is_last else _Join(self, is_first=not number))


@dataclass
class _Weigh:
    """Proportional attention: a token that stands for several is looked at as if it were there so often."""

    merge: Merge

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        size = self.merge.carried.size
        if not self.merge.mask or size is None:
            return args, kwargs
        names = list(inspect.signature(module.forward).parameters)
        named = dict(zip(names, args, strict=False)) | kwargs
        bias = size.log().unsqueeze(1).unsqueeze(1)
        given = named.get(self.merge.mask)
        named[self.merge.mask] = bias if given is None else given + bias
        return (named.pop(names[0]),), named


@dataclass
class _Keep:
    merge: Merge

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        width = output.shape[-1] // 3
        self.merge.carried.key = output[..., width : 2 * width] if self.merge.is_packed else output


@dataclass
class _Join:
    merge: Merge
    is_first: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        carried, states = self.merge.carried, _states(output)
        assert carried.key is not None  # the layer made it just now
        count = going(carried.key.shape[1], self.merge.count, self.merge.protected, self.merge.leave)
        if not count:
            carried.key = None
            return output
        matrix = assignment(carried.key, count, self.merge.protected)
        size = None if self.is_first else carried.size
        shares = matrix if size is None else matrix * size.unsqueeze(1)
        carried.size, cover = shares.sum(-1), None if self.is_first else carried.cover
        carried.cover = matrix.transpose(1, 2) if cover is None else torch.matmul(cover, matrix.transpose(1, 2))
        carried.key = None
        return _with_states(output, torch.matmul(shares / carried.size.unsqueeze(-1), states))


@dataclass
class _Spread:
    merge: Merge

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        cover = self.merge.carried.cover
        assert cover is not None  # there are several layers
        spread = torch.matmul(cover, _states(output))
        self.merge.carried = _Carried()
        return _with_states(output, spread)


def _states(output: Any) -> Tensor:
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)  # what a layer hands to the next
    return states


def _with_states(output: Any, states: Tensor) -> Any:
    return (states, *output[1:]) if isinstance(output, tuple) else states
