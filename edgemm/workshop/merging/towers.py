"""Transformer layers in a model that tokens can be merged between, and the hooks that do it.

Hooks, and no wrappers: parameters and submodules keep their names, so that weights, other steps' records and a teacher's layers still fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgemm.workshop.merging.matching import assignment
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import evaluating, sample_inputs

KEYS = ("k_proj", "key", "k", "qkv")
"""What libraries call the linear layer that makes keys; the last one makes queries and values too."""
MASKS = ("attention_mask", "attn_mask", "bias")
"""What they call the argument of a layer that is added to attention's scores."""
FEWEST_LAYERS = 2
MOST_PROTECTED = 16  # class tokens and registers; more than that beyond the patches are something else


@dataclass(frozen=True)
class Tower:
    """Transformer layers one after the other.

    Attributes:
        name: Of the list that holds them, in the model.
        layers: Their names.
        keys: Of each the linear layer that makes keys.
        mask: Argument of a layer that is added to attention's scores; "" where there is none.
    """

    name: str
    layers: tuple[str, ...]
    keys: tuple[str, ...]
    mask: str


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
        protected: First tokens that stay by themselves.
        is_packed: Whether the keys are the middle third of what their layer makes.
    """

    count: int
    protected: int
    mask: str
    is_packed: bool
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
        matrix = assignment(carried.key, self.merge.count, self.merge.protected)
        size = None if self.is_first else carried.size
        shares = matrix if size is None else matrix * size.unsqueeze(1)
        carried.size = shares.sum(-1)
        carried.cover = matrix.transpose(1, 2) if size is None else torch.matmul(carried.cover, matrix.transpose(1, 2))
        carried.key = None
        return _with_states(output, torch.matmul(shares / carried.size.unsqueeze(-1), states))


@dataclass
class _Spread:
    merge: Merge

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        spread = torch.matmul(self.merge.carried.cover, _states(output))
        self.merge.carried = _Carried()
        return _with_states(output, spread)


def towers(module: nn.Module) -> list[Tower]:
    """Lists of layers of one kind, each with one linear layer that makes keys."""
    return list(_towers(module))


def _towers(module: nn.Module) -> Iterator[Tower]:
    for name, part in module.named_modules():
        layers = list(part.named_children()) if isinstance(part, (nn.ModuleList, nn.Sequential)) else []
        if len(layers) < FEWEST_LAYERS or len({type(layer) for _, layer in layers}) > 1:
            continue
        keys = [_key(layer) for _, layer in layers]
        if all(keys):
            names = tuple(f"{name}.{child}" if name else child for child, _ in layers)
            accepted = inspect.signature(layers[0][1].forward).parameters
            mask = next((word for word in MASKS if word in accepted), "")
            yield Tower(name, names, tuple(f"{layer}.{key}" for layer, key in zip(names, keys, strict=True)), mask)


def _key(layer: nn.Module) -> str:
    """The linear layer inside of ``layer`` that makes keys; "" where there is none, or several."""
    named = [name for name, part in layer.named_modules() if isinstance(part, nn.Linear) and name.rpartition(".")[2] in KEYS]
    return named[0] if len(named) == 1 else ""


def is_packed(tower: Tower) -> bool:
    """Whether one layer makes queries, keys and values."""
    return tower.keys[0].rpartition(".")[2] == "qkv"


@dataclass
class Sizes:
    """Of a tower: tokens, and how many of the first are no patches."""

    tokens: int = 0
    protected: int = 0


def measure(model: FusedModel, found: Sequence[Tower]) -> Mapping[str, Sizes]:
    """Tower -> its sizes, from one call on made-up inputs.

    Class tokens and registers stand before the patches; so many tokens as there are more of than the last convolution before the tower
    has places.
    """
    sizes = {tower.name: Sizes() for tower in found}
    last: list[int] = [0]

    def convolved(part: nn.Module, args: Any, output: Tensor) -> None:
        last[0] = int(output[0, 0].numel())

    def entered(tower: Tower) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any) -> None:
            states = args[0] if args else next(iter(kwargs.values()))
            tokens = int(states.shape[1])
            more = tokens - last[0]
            sizes[tower.name] = Sizes(tokens, more if 0 <= more <= MOST_PROTECTED else 1)

        return hook

    handles = [part.register_forward_hook(convolved) for part in model.module.modules() if isinstance(part, (nn.Conv1d, nn.Conv2d))]
    handles += [model.module.get_submodule(tower.layers[0]).register_forward_pre_hook(entered(tower), with_kwargs=True) for tower in found]
    try:
        with torch.no_grad(), evaluating(model):
            model(sample_inputs(model.card))
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _states(output: Any) -> Tensor:
    states = output[0] if isinstance(output, tuple) else output
    assert isinstance(states, Tensor)  # what a layer hands to the next
    return states


def _with_states(output: Any, states: Tensor) -> Any:
    return (states, *output[1:]) if isinstance(output, tuple) else states
