"""Convolutions whose gradients oneDNN would write beyond their memory, computed by torch's own kernels.

On x86 without AVX-512 torch 2.13 (oneDNN's ``jit_1x1:avx2``) loses its heap in the gradient of the weights of a convolution of size 1 with
a stride and fewer than 8 channels, of a picture whose channels are laid out last: seen with 4 channels and stride 2 as glibc's "corrupted
double-linked list", within sixty steps every time. With stride 1, 8 or 12 channels, or channels laid out first it is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgemm.store.instructions import onednn_instructions

LANES = 8
"""Floats in an AVX2 register: fewer channels than these are written as if they were so many."""


def overruns(module: nn.Module) -> bool:
    """Whether a gradient of this model would be written beyond its memory here."""
    here = onednn_instructions()
    return "avx2" in here and "avx512f" not in here and any(map(_is_at_risk, module.modules()))


@contextmanager
def kept_within(overrun: bool) -> Iterator[None]:
    """A backward pass, without oneDNN where it would overrun its memory."""
    was = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(was and not overrun)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(was)


def _is_at_risk(part: nn.Module) -> bool:
    """Of a traced model (quantization-aware training), whose quantizers hide which weights a convolution reads, any two that would fit."""
    if isinstance(part, (nn.Conv1d, nn.Conv2d)):
        return max(part.stride) > 1 and _is_narrow(part.weight)
    if isinstance(part, torch.fx.GraphModule):
        return any(map(_strides, part.graph.nodes)) and any(map(_is_narrow, part.parameters()))
    return False


def _is_narrow(weight: torch.Tensor) -> bool:
    """Whether it is that of a convolution of size 1 with fewer than 8 channels."""
    return weight.ndim in (3, 4) and weight.shape[1] < LANES and all(size == 1 for size in weight.shape[2:])


def _strides(node: torch.fx.Node) -> bool:
    is_convolution = node.op == "call_function" and "conv" in str(node.target)
    return is_convolution and any(isinstance(given, (list, tuple)) and max(given, default=1) > 1 for given in node.args[3:4])
