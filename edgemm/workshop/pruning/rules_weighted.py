"""Operators with weights: where a layer's input and output channels stand in its parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgemm.workshop.pruning.labels import Label, along, fixed
from edgemm.workshop.pruning.rules import Call, Labels, rule
from edgemm.workshop.pruning.rules_joining import mixed, product

GATES = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}
COMPUTED = "its weight is computed at every call, not a plain parameter"


@rule("linear")
def linear(call: Call) -> Labels:
    """x (..., in), W (out, in), b (out)."""
    return _matrix(call, call.args[0], call.args[1], call.arg(2, "bias"), inside=1, outside=0)


@rule("matmul", "mm")
def matmul(call: Call) -> Labels:
    """``x @ W`` with a plain parameter W (in, out) is a layer; two activations are a contraction."""
    name = call.parameter(call.args[1])
    if name and call.real(call.args[1]).dim() == 2 and call.real(call.args[0]).dim() > 1:
        return _matrix(call, call.args[0], call.args[1], None, inside=0, outside=1)
    return product(call)


@rule("addmm")
def addmm(call: Call) -> Labels:
    """b + x @ W, as GPT-2's layers are written."""
    return _matrix(call, call.args[1], call.args[2], call.args[0], inside=0, outside=1)


def _matrix(call: Call, x: Any, weight: Any, bias: Any, *, inside: int, outside: int) -> Labels:
    name = call.parameter(weight)
    read = call.label(x)
    if name is None:
        call.freeze(call.label(weight), COMPUTED)
        call.freeze(read, COMPUTED)
        return fixed(call.shape())
    entering = call.atoms.fill(name, inside, call.one_axis(read, -1, "read by a linear layer"))
    leaving = _leaving(call, name, outside, call.real(weight).shape[outside])
    leaving = _beside(call, bias, leaving)
    call.work(call.value.numel() * len(entering), entering, leaving)
    return along(leaving, len(call.shape()) - 1, call.shape())


def _leaving(call: Call, name: str, axis: int, count: int) -> Tensor:
    """Output channels: those of the parameter's first use, else fresh ones."""
    slot = call.atoms.slots.get((name, axis))
    return call.atoms.roots(slot) if slot is not None else call.atoms.fill(name, axis, call.atoms.fresh(count))


def _beside(call: Call, argument: Any, labels: Tensor) -> Tensor:
    """A bias, or another vector with one number a channel."""
    if argument is None:
        return labels
    name = call.parameter(argument)
    if name is None:
        return call.atoms.merge(labels, torch.zeros_like(labels), call.reason(COMPUTED))
    return call.atoms.fill(name, 0, labels)


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Labels:
    """x (N, in, ...), W (out, in / groups, ...). Position j of every group is one channel; depthwise, output = input."""
    weight, groups = call.real(call.args[1]), call.arg(6, "groups", 1)
    name, read = call.parameter(call.args[1]), call.label(call.args[0])
    if name is None or call.real(call.args[0]).dim() != weight.dim():
        call.freeze(read, COMPUTED if name is None else "a convolution without a batch")
        return fixed(call.shape())
    entering = call.one_axis(read, 1, "read by a convolution")
    macs = call.value.numel() * math.prod(weight.shape[1:])
    if groups == len(entering) == weight.shape[0] and groups > 1:
        leaving = _beside(call, call.arg(2, "bias"), call.atoms.fill(name, 0, entering))
        call.work(macs, leaving)
        return along(leaving, 1, call.shape())
    entering = call.atoms.fill(name, 1, _tied(call, entering, groups))
    slot = call.atoms.slots.get((name, 0))
    fresh = call.atoms.fresh(weight.shape[0] // groups).repeat(groups) if slot is None else slot
    leaving = _beside(call, call.arg(2, "bias"), call.atoms.fill(name, 0, fresh))
    call.work(macs, entering, leaving)
    return along(leaving, 1, call.shape())


def _tied(call: Call, labels: Tensor, groups: int) -> Tensor:
    """(groups * n,) -> (n,): position j of all groups becomes one channel."""
    if groups == 1:
        return labels
    return call.atoms.tie(labels.reshape(groups, -1), 1, call.reason("it meets a fixed size in a grouped convolution"))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(call: Call) -> Labels:
    """x (N, in, ...), W (in, out / groups, ...)."""
    name, read = call.parameter(call.args[1]), call.label(call.args[0])
    if name is None or call.arg(6, "groups", 1) != 1:
        call.freeze(read, COMPUTED if name is None else "a transposed convolution in groups")
        return fixed(call.shape())
    weight = call.real(call.args[1])
    entering = call.atoms.fill(name, 0, call.one_axis(read, 1, "read by a convolution"))
    leaving = _beside(call, call.arg(2, "bias"), _leaving(call, name, 1, weight.shape[1]))
    call.work(call.real(call.args[0]).numel() * math.prod(weight.shape[1:]), entering, leaving)
    return along(leaving, 1, call.shape())


@rule("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm")
def batch_norm(call: Call) -> Labels:
    """x (N, C, ...) with weight, bias, mean and variance of its channels."""
    label = call.label(call.args[0])
    if len(label.shape) < 2 or not label.has_atoms():
        return label
    channels = call.one_axis(label, 1, "normalised")
    for position in range(1, 5):
        if call.arg(position) is not None:
            channels = _beside(call, call.arg(position), channels)
    return along(channels, 1, call.shape())


@rule("group_norm")
def group_norm(call: Call) -> Labels:
    """x (N, C, ...): a mean over each group of channels, so that groups go whole; ``nn.GroupNorm`` counts those that are left."""
    label, groups = call.label(call.args[0]), int(call.args[1])  # type: ignore[arg-type]
    if groups == 1 or call.arg(2, "weight") is None or set(label.varying()) - {1}:
        reason = "over all channels" if groups == 1 else "over groups whose number nothing in its weights tells"
        return mixed(call, range(1, len(label.shape)), f"a group norm takes its mean {reason}")
    if not label.has_atoms():
        return label
    channels = call.one_axis(label, 1, "normalised")
    size = len(channels) // groups
    tied = call.atoms.tie(channels.reshape(groups, size), 0, call.reason("it meets a fixed size in a group norm"))
    if len(torch.unique(call.atoms.roots(tied))) == 1:
        call.freeze(label, "the groups of a convolution and of a group norm join all its channels")
    channels = tied.repeat_interleave(size)
    for position in (2, 3):
        channels = _beside(call, call.arg(position), channels)
    return along(channels, 1, call.shape())


@rule("prelu")
def prelu(call: Call) -> Labels:
    """A slope for each channel, or one for all."""
    label = call.label(call.args[0])
    if not label.has_atoms() or call.real(call.args[1]).numel() == 1:
        return label
    return along(_beside(call, call.args[1], call.one_axis(label, 1, "activated")), 1, call.shape())


@rule("embedding")
def embedding(call: Call) -> Labels:
    """W (ids, width)."""
    name = call.parameter(call.args[0])
    if name is None:
        call.freeze(call.label(call.args[0]), COMPUTED)
        return fixed(call.shape())
    leaving = _leaving(call, name, 1, call.real(call.args[0]).shape[1])
    return along(leaving, len(call.shape()) - 1, call.shape())


@rule("gru", "lstm", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Labels:
    """All layers and directions share one set of hidden channels, since the module has one ``hidden_size``.

    ``input`` form only: (x, states, parameters, has_biases, layers, dropout, train, bidirectional, batch_first).
    """
    kind = str(call.node.target).split(".")[1]
    x, states, parameters, biased, layers, _, _, both, _ = call.args
    names = [call.parameter(parameter) for parameter in parameters]  # type: ignore[union-attr]
    directions = 2 if both else 1
    each = len(names) // (int(layers) * directions)  # type: ignore[arg-type]
    if None in names or not isinstance(parameters, (list, tuple)) or each != (4 if biased else 2):
        for label in call.labels():
            call.freeze(label, "a recurrent layer with a projection, packed sequences or computed weights")
        return call_shapes(call)
    hidden = _hidden(call, [str(name) for name in names], GATES[kind], each)
    for state in states if isinstance(states, (list, tuple)) else [states]:
        if call.label(state).has_atoms():
            call.freeze(call.label(state), "it is the first state of a recurrent layer")
            call.atoms.freeze(hidden, call.reason("its first state is computed"))
    entering = call.one_axis(call.label(x), -1, "read by a recurrent layer")
    for number in range(0, len(names), each):
        first_layer = number // each < directions
        read = entering if first_layer else hidden.repeat(directions)
        call.atoms.fill(str(names[number]), 1, read)
        _recurrent_work(call, hidden, read, GATES[kind])
    outputs = call.value
    leaving = along(call.atoms.roots(hidden).repeat(directions), outputs[0].dim() - 1, tuple(outputs[0].shape))
    return leaving, *(along(call.atoms.roots(hidden), state.dim() - 1, tuple(state.shape)) for state in outputs[1:])


def _hidden(call: Call, names: list[str], gates: int, each: int) -> Tensor:
    """The hidden channels, in their places in all weights and biases."""
    width = int(call.value[1].shape[-1])
    slot = call.atoms.slots.get((names[1], 1))
    hidden = call.atoms.fresh(width) if slot is None else call.atoms.roots(slot)
    for number, name in enumerate(names):
        call.atoms.fill(name, 0, hidden.repeat(gates))
        if number % each == 1:
            call.atoms.fill(name, 1, hidden)
    return call.atoms.roots(hidden)


def _recurrent_work(call: Call, hidden: Tensor, read: Tensor, gates: int) -> None:
    """One layer and direction: gates x hidden x (input + hidden) a step."""
    out = call.value[0]
    steps = out.numel() // out.shape[-1]
    call.work(steps * gates * len(hidden) * len(read), hidden, read)
    call.work(steps * gates * len(hidden) ** 2, hidden, hidden)


def call_shapes(call: Call) -> tuple[Label, ...]:
    """Fixed labels in the shapes of a call's several results."""
    return tuple(fixed(tuple(value.shape)) for value in call.value)
