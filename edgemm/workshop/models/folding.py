"""Weights that are computed from others at every call (weight norm, spectral norm, masks), made plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from edgemm.errors import ExportError
from edgemm.graph import parity
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import evaluating, sample_inputs


def folded(model: FusedModel) -> FusedModel:
    """A copy with plain weights, proved to answer alike; ``model`` itself where it has no others.

    Raises:
        ExportError: It answers otherwise: a weight is used elsewhere too, or changes with what comes in.
    """
    if not is_computed(model.module):
        return model
    before, again = _answers(model), _answers(model)
    plain = FusedModel(model.card, _copied(model.module)).eval()
    plain.silenced = model.silenced
    names = fold(plain.module)
    after = _answers(plain)
    for name, value in before.items():
        is_settled = name in again and parity.within(parity.difference(value, again[name]))
        if is_settled and (name not in after or not parity.within(parity.difference(value, after[name]))):
            raise ExportError(
                f"output '{name}' changes when the computed weights are made plain ones.",
                why=f"computed at every call: {', '.join(names)}; one of them is used elsewhere too, or follows what comes in.",
                fix="remove it before saving, such as with torch.nn.utils.parametrize.remove_parametrizations.",
            )
    return plain


def fold(module: nn.Module) -> list[str]:
    """Replace every computed weight of ``module`` by a parameter that holds its value in eval mode, in place.

    Covers ``torch.nn.utils.parametrize`` with all that is built on it, and the hooks of ``weight_norm``, ``spectral_norm`` and ``prune``.

    Returns:
        The names that were folded, such as ``eye.0.weight``.
    """
    names = []
    with evaluating(module), torch.enable_grad():  # a spectral norm iterates in training mode; without gradients nothing would be trainable
        for path, part in list(module.named_modules()):
            for name, remove in list(_computed(part)):
                remove()
                names.append(f"{path}.{name}" if path else name)
                if isinstance(part, nn.RNNBase):
                    part._flat_weights = [getattr(part, weight) for weight in part._flat_weights_names]
    return names


def is_computed(module: nn.Module) -> bool:
    """Whether ``fold`` would change something."""
    return any(True for part in module.modules() for _ in _computed(part))


def is_state_of_folded(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether ``state`` was saved after ``fold``: it holds nothing that the weights of ``module`` are computed from."""
    plain = _copied(module)
    fold(plain)
    sources = tuple(module.state_dict().keys() - plain.state_dict().keys())
    return not any(name.endswith(sources) for name in state)


def _computed(part: nn.Module) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names of a module's own computed tensors, each with what makes it plain."""
    if parametrize.is_parametrized(part):
        for name in list(part.parametrizations):  # type: ignore[arg-type]  # a ModuleDict
            yield name, partial(_unparametrized, part, name)
    for number, hook in list(part._forward_pre_hooks.items()):
        if isinstance(hook, WeightNorm):
            yield hook.name, partial(remove_weight_norm, part, hook.name)
        elif isinstance(hook, SpectralNorm):
            yield hook.name, partial(_unnormed, part, hook.name)
        elif isinstance(hook, BasePruningMethod):
            yield str(hook._tensor_name), partial(_unmasked, part, hook, number)


def _unparametrized(part: nn.Module, name: str) -> None:
    kind = type(part)  # a copy shares it with its original, and torch takes the name off the class
    part.__class__ = type(kind.__name__, kind.__bases__, {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")})
    parametrize.remove_parametrizations(part, name, leave_parametrized=True)


def _unnormed(part: nn.Module, name: str) -> None:
    remove_spectral_norm(part, name)
    hooks = part._load_state_dict_pre_hooks  # torch wraps what it then looks for, and leaves it: it would want the old names
    for number, hook in list(hooks.items()):
        kept = getattr(hook, "hook", hook)
        if isinstance(kept, SpectralNormLoadStateDictPreHook) and kept.fn.name == name:
            del hooks[number]


def _unmasked(part: nn.Module, hook: BasePruningMethod, number: int) -> None:
    hook.remove(part)
    del part._forward_pre_hooks[number]


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy; what a hook computed last, and computes anew at the next call, is cut off its history, which cannot be copied."""
    for part in module.modules():
        for name, _ in _computed(part):
            if isinstance(value := part.__dict__.get(name), Tensor):
                part.__dict__[name] = value.detach()
    return copy.deepcopy(module)


def _answers(model: FusedModel) -> dict[str, Any]:
    """Answers to made-up rows; {} where it does not run, which is told where it is used."""
    try:
        with torch.no_grad(), evaluating(model):
            return {name: value.float().numpy() for name, value in model(sample_inputs(model.card)).items()}
    except Exception:
        return {}
