"""Operators that only move numbers: the same operator, run on the labels, says where they go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgemm.workshop.models.torch_branches import operator
from edgemm.workshop.pruning.atoms import ADAPTS
from edgemm.workshop.pruning.labels import Label, adapting, fixed, gather
from edgemm.workshop.pruning.rules import Call, Labels, rule
from edgemm.workshop.pruning.rules_joining import meet

PACKED = (2, 3)
"""A leading axis of this size in a split of channels may hold keys and values, or queries, keys and values."""


@rule(
    "permute", "transpose", "t", "numpy_T", "mT", "movedim", "swapaxes", "swapdims", "select", "slice", "narrow", "split",
    "split_with_sizes", "chunk", "tensor_split", "unbind", "unsqueeze", "squeeze", "flip", "roll", "rot90", "index_select", "diagonal",
    "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tril", "triu",
)  # fmt: skip
def moved(call: Call) -> Labels:
    """Run on the labels as it ran on the values."""
    return _gathered(_again(call, call.label(call.args[0]).full()), call)


@rule("index")
def index(call: Call) -> Labels:
    """Real indexes; ``None`` stands for a whole axis."""
    return moved(call)


@rule(
    "contiguous", "clone", "to", "detach", "alias", "_to_copy", "lift_fresh_copy", "type_as", "float", "double", "half", "positive",
    "requires_grad", "detach_copy", "alias_copy", "resolve_conj", "real",
)  # fmt: skip
def passed(call: Call) -> Labels:
    """Every position stays where it is."""
    label = call.label(call.args[0])
    return Label(label.at, call.shape())


@rule("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave")
def expanded(call: Call) -> Labels:
    """What grows from size 1 takes the size of whatever it meets later; if a number is written there, the trial finds out."""
    label = call.label(call.args[0])
    if label.has_atoms() and not label.varying():
        call.freeze(label, "one channel of it is spread over others")
        return adapting(call.shape())
    if not label.has_atoms():
        return adapting(call.shape())
    if str(call.node.target).split(".")[1] in ("expand", "expand_as", "broadcast_to"):
        missing = (1,) * (len(call.shape()) - len(label.shape))
        return Label(label.at.reshape(missing + tuple(label.at.shape)), call.shape())
    return moved(call)


@rule(
    "zeros", "ones", "full", "empty", "arange", "eye", "rand", "randn", "scalar_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like", "new_zeros", "new_ones", "new_full", "new_empty", "randn_like", "linspace",
)  # fmt: skip
def made(call: Call) -> Labels:
    """Fresh constants take the size of what they meet; a size written as a number fails the trial."""
    return adapting(call.shape())


@rule("zero", "fill")
def emptied(call: Call) -> Labels:
    """Only the values go; the positions keep their labels."""
    return call.label(call.args[0])


@rule("pad", "constant_pad_nd")
def padded(call: Call) -> Labels:
    """Positions that padding adds are of fixed size."""
    label = call.label(call.args[0])
    if not label.has_atoms():
        return Label(label.at.narrow(0, 0, 1), call.shape()) if not label.varying() else fixed(call.shape())
    if len(call.args) > 2 and call.args[2] != "constant" and isinstance(call.args[2], str):
        raise ValueError(f"padding '{call.args[2]}'")
    pads = list(call.args[1])  # type: ignore[arg-type]
    rank = len(label.shape)
    if any(pads[2 * (rank - 1 - axis)] or pads[2 * (rank - 1 - axis) + 1] for axis in label.varying() if 2 * (rank - 1 - axis) < len(pads)):
        return gather(torch.nn.functional.pad(label.full(), pads, value=0), call.atoms)
    return Label(label.at, call.shape())


@rule("cat", "concatenate", "stack")
def joined(call: Call) -> Labels:
    """Along the channels labels stand side by side; along any other axis the channels of all parts are the same."""
    parts = [call.label(part) for part in call.args[0]]  # type: ignore[union-attr]
    axis, rank = int(call.arg(1, "dim", 0)), len(call.shape())
    axis %= rank
    if str(call.node.target).split(".")[1] == "stack":
        parts = [Label(part.at.unsqueeze(axis), (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
    parts = [part for part in parts if len(part.shape) == rank]  # torch ignores an empty one-dimensional part
    elsewhere = {dim for part in parts for dim in part.varying() if dim != axis}
    if not elsewhere:
        if not any(part.has_atoms() for part in parts):
            return adapting(call.shape()) if all(bool((part.at == ADAPTS).all()) for part in parts) else fixed(call.shape())
        return gather(torch.cat([_on_axis(part, axis) for part in parts], axis).expand(call.shape()), call.atoms)
    if any(axis in part.varying() for part in parts):
        for part in parts:
            call.freeze(part, "values with channels on different axes stand side by side")
        return fixed(call.shape())
    sizes = tuple(1 if dim == axis else size for dim, size in enumerate(call.shape()))
    label = meet(call, [Label(part.at, tuple(1 if dim == axis else n for dim, n in enumerate(part.shape))) for part in parts], sizes)
    return Label(label.at, call.shape())


def _on_axis(part: Label, axis: int) -> Tensor:
    """Labels with the part's full size on ``axis`` alone; what adapts has a fixed size here."""
    sizes = [size if dim == axis else 1 for dim, size in enumerate(part.shape)]
    return part.at.expand(sizes).clamp(min=0)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
def reshaped(call: Call) -> Labels:
    """Labels are reshaped alike. Where channels became several axes, one of them counts: the heads, and the rest is tied along it."""
    label = call.label(call.args[0])
    divided = gather(label.full().reshape(call.shape()), call.atoms)
    varying = divided.varying()
    if len(varying) < 2 or len(varying) <= len(label.varying()):
        return divided
    head = varying[-2]
    if len(varying) == 2 and call.shape()[varying[0]] in PACKED and _is_taken_apart(call.node):
        head = varying[-1]
    tied = call.atoms.tie(divided.at, head, call.reason("part of it is of fixed size where it is divided"))
    return Label(tied.reshape([len(tied) if axis == head else 1 for axis in range(len(call.shape()))]), call.shape())


def _is_taken_apart(node: Node) -> bool:
    """Whether the parts of a value are read one by one: then its leading axis holds queries, keys and values, not two or three heads."""
    for user in node.users:
        name = operator(user)
        if name in ("unbind", "select", "split", "chunk", "index", "getitem"):
            return True
        if name in ("permute", "transpose", "movedim", "contiguous", "clone") and _is_taken_apart(user):
            return True
    return False


@rule("glu")
def glu(call: Call) -> Labels:
    """One half times the sigmoid of the other."""
    label = call.label(call.args[0])
    halves = [gather(half, call.atoms) for half in label.full().chunk(2, int(call.arg(1, "dim", -1)))]
    return meet(call, halves, call.shape())


@rule("index_add", "index_copy")
def index_add(call: Call) -> Labels:
    """Rows of the second are added to rows of the first: same channels."""
    into, source = call.label(call.args[0]), call.label(call.args[3])
    axis = int(call.args[1]) % len(into.shape)  # type: ignore[arg-type]
    if axis in into.varying() or axis in source.varying():
        raise ValueError("channels on the axis that is added along")
    narrow = [Label(part.at, tuple(1 if dim == axis else n for dim, n in enumerate(part.shape))) for part in (into, source)]
    return Label(meet(call, narrow, narrow[0].shape).at, call.shape())


def _again(call: Call, labels: Tensor) -> Any:
    """The operator on labels instead of its first argument."""
    rest = call.real(tuple(call.args[1:]))
    return call.node.target(labels, *rest, **call.real(dict(call.kwargs)))  # type: ignore[operator]


def _gathered(result: Any, call: Call) -> Labels:
    if isinstance(result, (tuple, list)):
        return tuple(gather(part, call.atoms) for part in result)
    return gather(result, call.atoms)
