"""Taking channels out of a module in place, or setting them to zero for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Kept = Mapping[str, Mapping[int, Sequence[int] | np.ndarray]]
"""Parameter or buffer -> axis -> positions that stay."""


def cut(module: nn.Module, kept: Kept) -> None:
    """Slice parameters and buffers in place and bring the sizes that layers remember in line.

    Raises:
        KeyError: A name that the module does not have.
        IndexError: Positions that the module does not have.
    """
    owners = _owners(module)
    touched: dict[int, nn.Module] = {}
    for name, axes in kept.items():
        places = owners[name]
        part, attribute = places[0]
        new = _sliced(getattr(part, attribute), axes)
        for part, attribute in places:
            if attribute in part._parameters:
                setattr(part, attribute, new)  # recurrent layers note the new weight in their flat list
            else:
                part._buffers[attribute] = new
            touched[id(part)] = part
    for part in touched.values():
        _remember_sizes(part)
    for part in module.modules():  # of a norm without a tensor nothing tells the size but what comes in, and torch warns of another
        if (
            isinstance(part, nn.modules.instancenorm._InstanceNorm)
            and part.weight is part.running_mean is None
            and _count not in part._forward_pre_hooks.values()
        ):
            part.register_forward_pre_hook(_count)


@contextlib.contextmanager
def cut_for_now(module: nn.Module, kept: Kept) -> Iterator[None]:
    """``cut`` inside; afterwards everything is as it was."""
    owners = _owners(module)
    parts = {id(part): part for name in kept for part, _ in owners[name]}
    saved = {key: _state(part) for key, part in parts.items()}
    try:
        cut(module, kept)
        yield
    finally:
        for key, part in parts.items():
            part.__dict__.clear()
            part.__dict__.update(saved[key])


@contextlib.contextmanager
def masked_for_now(module: nn.Module, kept: Kept) -> Iterator[None]:
    """What ``cut`` would remove is zero inside; a variance stays, since zero there divides by nothing."""
    owners = _owners(module)
    saved: list[tuple[Tensor, Tensor]] = []
    for name, axes in kept.items():
        part, attribute = owners[name][0]
        tensor = getattr(part, attribute)
        if attribute == "running_var":
            continue
        masked = tensor.detach().clone()
        for axis, stays in axes.items():
            gone = np.setdiff1d(np.arange(tensor.shape[axis]), np.asarray(stays))
            masked.index_fill_(axis, torch.from_numpy(gone), 0)
        saved.append((tensor, tensor.data))
        tensor.data = masked
    try:
        yield
    finally:
        for tensor, data in saved:
            tensor.data = data


def _owners(module: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Parameter or buffer -> every (submodule, attribute) that holds this very tensor."""
    by_tensor: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[str, int] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        for attribute, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None:
                continue
            names[f"{path}.{attribute}" if path else attribute] = id(tensor)
            places = by_tensor.setdefault(id(tensor), [])
            if (part, attribute) not in places:
                places.append((part, attribute))
    return {name: by_tensor[key] for name, key in names.items()}


def _sliced(tensor: Tensor, axes: Mapping[int, Sequence[int] | np.ndarray]) -> Tensor:
    new = tensor.detach()
    for axis, stays in axes.items():
        new = new.index_select(int(axis), torch.as_tensor(np.asarray(stays, np.int64)))
    new = new.contiguous()
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _count(part: Any, args: tuple[Tensor, ...]) -> None:
    """Bring the size that a norm remembers in line with what comes in: no tensor of its own tells it, and torch warns of another."""
    part.num_features = args[0].shape[-part._get_no_batch_dim()]


def _state(part: nn.Module) -> dict[str, Any]:
    saved = dict(part.__dict__)
    for key in ("_parameters", "_buffers"):
        saved[key] = dict(saved[key])
    if "_flat_weights" in saved:
        saved["_flat_weights"] = list(saved["_flat_weights"])
    return saved


def _remember_sizes(part: nn.Module) -> None:
    """Sizes as attributes, by type. What a user's module remembers beside is found by the trial, not guessed."""
    match part:
        case nn.Linear():
            part.out_features, part.in_features = part.weight.shape
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            part.in_channels, part.out_channels = part.weight.shape[0], part.weight.shape[1] * part.groups
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if part.groups == part.in_channels == part.out_channels:
                part.groups = part.weight.shape[0]
            part.out_channels, part.in_channels = part.weight.shape[0], part.weight.shape[1] * part.groups
        case nn.modules.batchnorm._NormBase():
            tensor = part.weight if part.weight is not None else part.running_mean
            part.num_features = len(tensor) if tensor is not None else part.num_features
        case nn.GroupNorm():
            size = part.num_channels // part.num_groups
            part.num_channels, part.num_groups = len(part.weight), len(part.weight) // size
        case nn.PReLU():
            part.num_parameters = len(part.weight)
        case nn.Embedding():
            part.embedding_dim = part.weight.shape[1]
        case nn.RNNBase():
            part.input_size = int(part.get_parameter("weight_ih_l0").shape[1])
            part.hidden_size = int(part.get_parameter("weight_hh_l0").shape[1])
