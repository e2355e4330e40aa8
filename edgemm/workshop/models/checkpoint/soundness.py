"""A loaded module made fit to work on: in float32, and with weights that are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from edgemm.errors import CheckpointError

OTHERS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float64"}


def widen(module: nn.Module, name: str, note: Callable[[str], None]) -> None:
    """Turn parameters and buffers of other float types into float32, in place, and say so."""
    kinds = sorted({OTHERS[tensor.dtype] for _, tensor in _tensors(module) if tensor.dtype in OTHERS})
    if kinds:
        module.float()
        note(f"'{name}' holds {' and '.join(kinds)}: it is read as float32.")


def require_finite(module: nn.Module, path: Path | str) -> None:
    """Refuse NaN anywhere, and infinities in what is no mask: parameters, and running statistics of norms.

    Raises:
        CheckpointError: Names the tensor.
    """
    statistics = {
        f"{prefix}{'.' if prefix else ''}{name}"
        for prefix, part in module.named_modules()
        if isinstance(part, _NormBase)
        for name in ("running_mean", "running_var")
    }
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)} | statistics
    for name, tensor in _tensors(module):
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.device.type == "meta" or tensor.isfinite().all():
            continue
        count = int(tensor.isnan().sum())
        if count or name in weights:
            raise CheckpointError(
                f"'{name}' of the weights in '{path}' holds {'NaN' if count else 'infinity'}.",
                why=f"{count or int(tensor.isinf().sum())} of its {tensor.numel()} values; one is enough to make every answer NaN.",
                fix="take a checkpoint from before the training diverged. (A mask of -inf belongs in a buffer, not in a parameter.)",
            )


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not is_lazy(tensor):
            yield name, tensor.detach()
