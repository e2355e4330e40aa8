"""Operators in which channels meet: elementwise ones, products of activations, attention, normalisation and sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgemm.workshop.pruning.atoms import ADAPTS, FIXED
from edgemm.workshop.pruning.labels import Label, along, fixed
from edgemm.workshop.pruning.rules import Call, Labels, rule

ELEMENTWISE = (
    "add", "sub", "mul", "div", "true_divide", "rsub", "pow", "maximum", "minimum", "fmod", "remainder", "floor_divide", "atan2", "addcmul",
    "addcdiv", "lerp", "where", "masked_fill", "clamp", "clamp_min", "clamp_max", "hardtanh", "copy", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "relu", "relu6", "gelu", "silu",
    "mish", "sigmoid", "hardsigmoid", "hardswish", "tanh", "elu", "celu", "selu", "leaky_relu", "softplus", "logsigmoid", "log_sigmoid",
    "threshold", "neg", "abs", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "square", "reciprocal", "sin", "cos", "erf", "sign",
    "floor", "ceil", "round", "trunc", "isnan", "isinf", "isfinite", "nan_to_num", "dropout", "feature_dropout", "alpha_dropout",
    "native_dropout", "rand_like", "softshrink", "hardshrink", "tanhshrink", "tanh_shrink", "softsign", "rrelu", "xlogy", "hypot",
)  # fmt: skip
SPATIAL = {
    **dict.fromkeys(
        ("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d", "upsample_linear1d", "upsample_nearest1d"), 1
    ),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices", "lp_pool2d"), 2),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "reflection_pad2d", "replication_pad2d"), 2),
    **dict.fromkeys(("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_trilinear3d"), 3),
    **dict.fromkeys(("reflection_pad1d", "replication_pad1d", "max_pool1d_with_indices"), 1),
}
"""Operator -> how many of the last axes it works along; channels stand before those."""


@rule(*ELEMENTWISE)
def elementwise(call: Call) -> Labels:
    """Operands of full size are joined position by position; one of size 1 there is a true broadcast and constrains nothing."""
    shape = tuple((call.value[0] if isinstance(call.value, tuple) else call.value).shape)
    label = meet(call, call.labels(), shape)
    return tuple(label for _ in call.value) if isinstance(call.value, tuple) else label


def meet(call: Call, labels: Sequence[Label], shape: tuple[int, ...]) -> Label:
    """Join labels that broadcast against each other to ``shape``."""
    aligned = [_aligned(label, len(shape)) for label in labels]
    varying = {axis for label in aligned for axis in label.varying()}
    if not varying:
        for label in aligned:
            call.freeze(label, "one channel of it is used on its own")
        return Label(torch.full((1,) * len(shape), ADAPTS if _all_adapt(aligned) else FIXED), shape)
    full = [label for label in aligned if all(label.shape[axis] == shape[axis] for axis in varying)]
    for label in aligned:
        if not any(label is other for other in full):
            call.freeze(label, "it is spread over the channels of another value")
    if not full:
        return fixed(shape)
    joined = full[0].at
    for label in full[1:]:
        joined = call.atoms.merge(joined, label.at, call.reason("it meets a value of fixed size"))
    return Label(joined, shape)


def _all_adapt(labels: Sequence[Label]) -> bool:
    """Whether all operands with more than one element adapt."""
    large = [label for label in labels if math.prod(label.shape) > 1]
    return bool(large) and all(bool((label.at == ADAPTS).all()) for label in large)


def _aligned(label: Label, rank: int) -> Label:
    missing = (1,) * (rank - len(label.shape))
    return Label(label.at.reshape(missing + tuple(label.at.shape)), missing + label.shape)


@rule("bmm")
def product(call: Call) -> Labels:
    """A matrix product of two activations, (..., m, k) @ (..., k, n)."""
    first, second = call.label(call.args[0]), call.label(call.args[1])
    batch = "abcdefgh"
    one = batch[-(len(first.shape) - 2) :] * (len(first.shape) > 2) + "mk"[-min(2, len(first.shape)) :]
    other = batch[-(len(second.shape) - 2) :] * (len(second.shape) > 2) + ("kn" if len(second.shape) > 1 else "k")
    longer = max(one[:-2], other[:-2], key=len)
    out = longer + ("m" if "m" in one else "") + ("n" if "n" in other else "")
    return contract(call, [first, second], [one, other], out)


@rule("einsum")
def einsum(call: Call) -> Labels:
    """As ``contract``; an equation with dots or a repeated letter is not followed."""
    equation, operands = str(call.args[0]).replace(" ", ""), call.args[1]
    terms, arrow, out = equation.partition("->")
    letters = terms.split(",")
    if "." in equation or not arrow or any(len(set(term)) < len(term) for term in letters):
        raise ValueError(f"the equation '{equation}'")
    return contract(call, [call.label(operand) for operand in operands], letters, out)  # type: ignore[union-attr]


def contract(call: Call, labels: Sequence[Label], letters: Sequence[str], out: str) -> Label:
    """Sum of products over the letters that ``out`` lacks. Channels on a shared letter are joined; an operand has them on one letter."""
    for label in labels:
        if len(label.varying()) > 1 or (label.has_atoms() and not label.varying()):
            call.freeze(label, "a product of values with channels on several axes")
    sizes = {
        letter: size
        for label, term in zip(labels, letters, strict=True)
        for letter, size in zip(term, label.shape, strict=True)
        if size > 1
    }
    along_letter: dict[str, Tensor] = {}
    for letter in sizes:
        met = [
            _on(label, term.index(letter))
            for label, term in zip(labels, letters, strict=True)
            if letter in term and label.shape[term.index(letter)] > 1 and len(label.varying()) < 2
        ]
        if any(bool((labels_ > 0).any()) for labels_ in met):
            joined = met[0]
            for other in met[1:]:
                joined = call.atoms.merge(joined, other, call.reason("it is multiplied with a value of fixed size"))
            along_letter[letter] = joined.clamp(min=0)
    call.work(math.prod(sizes.values()), *along_letter.values())
    left = [letter for letter in out if letter in along_letter]
    if len(left) > 1:
        for labels_ in along_letter.values():
            call.atoms.freeze(labels_, call.reason("every channel is multiplied with every channel of another value"))
        return fixed(call.shape())
    return along(along_letter[left[0]], out.index(left[0]), call.shape()) if left else fixed(call.shape())


def _on(label: Label, axis: int) -> Tensor:
    """One label for each position on ``axis`` of a value with channels on one axis at most."""
    if label.at.shape[axis] > 1:
        return label.at.flatten()
    return torch.full((label.shape[axis],), ADAPTS if bool((label.at == ADAPTS).all()) else FIXED)


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Labels:
    """(..., heads, T, width): heads may go; the width of queries and keys sets the scale, so it stays."""
    query, key, value = (call.label(call.args[number]) for number in range(3))
    rank = len(query.shape)
    for label in (query, key):
        if label.at.shape[-1] > 1:
            call.freeze(label, "the width of a head sets the scale of its attention")
    if any(label.at.shape[-2] > 1 for label in (query, key, value)):
        raise ValueError("channels on the axis of the tokens")
    heads = rank - 3
    for label in (query, key, value):
        if len(label.varying()) > 1 or (label.varying() and label.varying()[0] not in (heads, rank - 1)):
            raise ValueError("channels on several axes")
    scores = call.label(call.arg(3, "attn_mask")) if call.arg(3, "attn_mask") is not None else None
    steps, length, width = query.shape[-2], key.shape[-2], query.shape[-1]
    joined = meet(call, [_one_token(label) for label in (query, key) if label.at.shape[-1] == 1], (*call.shape()[:-2], 1, 1))
    if scores is not None and joined.varying():
        joined = meet(call, [joined, _one_token(scores)], (*call.shape()[:-2], 1, 1))
    count = math.prod(call.shape()[:-2]) * steps * length * width
    if value.varying() == (rank - 1,):
        call.freeze(joined, "its values are divided otherwise than its heads")
        call.work(2 * count)
        return Label(value.at, call.shape())
    joined = meet(call, [joined, _one_token(value)], (*call.shape()[:-2], 1, 1))
    call.work(2 * count, joined.at.flatten())
    return Label(joined.at, call.shape())


def _one_token(label: Label) -> Label:
    return Label(label.at.narrow(-1, 0, 1).narrow(-2, 0, 1), (*label.shape[:-2], 1, 1))


@rule("layer_norm", "rms_norm")
def layer_norm(call: Call) -> Labels:
    """Mean and deviation over the last axes mix the channels there."""
    axes = len(call.args[1])  # type: ignore[arg-type]
    return mixed(call, range(len(call.shape()) - axes, len(call.shape())), "a layer norm takes its mean over these channels")


@rule(
    "softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp", "cumsum", "cumprod", "argmax", "argmin", "mean", "amax", "amin",
    "max", "min", "var", "std", "prod", "all", "any", "median", "normalize",
)  # fmt: skip
def mixing(call: Call) -> Labels:
    """Reductions and the like: channels along the reduced axes are mixed and stay."""
    read = call.label(call.args[0])
    if len(call.args) > 1 and isinstance(call.args[1], torch.fx.Node):  # max and min of two tensors
        return elementwise(call)
    return reduced(call, mixed(call, _axes(call, 1, len(read.shape)), f"'{_name(call)}' mixes these channels"))


@rule("sum", "linalg_vector_norm", "norm")
def added(call: Call) -> Labels:
    """A sum takes channels in one by one: what is removed has to be zero there, which the proof sees."""
    read = call.label(call.args[0])
    axes = _axes(call, 1 if _name(call) == "sum" else 2, len(read.shape))
    varying = set(read.varying())
    if varying & axes and varying - axes:
        return reduced(call, mixed(call, axes, "a sum over one of several axes with channels"))
    if varying & axes or not varying:
        if read.has_atoms() and not varying:
            call.freeze(read, "one channel of it is used on its own")
        return fixed(call.shape())
    return reduced(call, read)


def mixed(call: Call, axes: Sequence[int] | range | set[int], text: str) -> Label:
    """The label of the first argument, frozen where it varies along ``axes``; parameters beside it (a norm's weight) follow."""
    read = call.label(call.args[0])
    mixes = bool(set(read.varying()) & set(axes)) or (read.has_atoms() and not read.varying())
    if not mixes:
        return read
    call.freeze(read, text)
    same_shape = isinstance(call.value, Tensor) and tuple(call.value.shape) == read.shape
    return read if same_shape else fixed(read.shape)  # kept where it can be, so that what it meets later knows the reason


def reduced(call: Call, label: Label) -> Labels:
    """``label`` in the shape of the result: reduced axes have size 1 or are gone."""
    if isinstance(call.value, (tuple, list)):
        return tuple(_fit(call, label, tuple(value.shape)) for value in call.value)
    return _fit(call, label, tuple(call.value.shape))


def _fit(call: Call, label: Label, shape: tuple[int, ...]) -> Label:
    if len(shape) == len(label.shape):
        return Label(label.at, shape)
    axes = _axes(call, 2 if "norm" in _name(call) else 1, len(label.shape))
    kept = [size for axis, size in enumerate(label.at.shape) if axis not in axes]
    return Label(label.at.reshape(kept), shape)


def _axes(call: Call, position: int, rank: int) -> set[int]:
    """The axes that a reduction names; all of them where it names none."""
    dims = call.arg(position, "dim")
    if dims is None or isinstance(dims, bool) or dims == []:
        return set(range(rank))
    return {int(axis) % rank for axis in (dims if isinstance(dims, (list, tuple)) else [dims])}


def _name(call: Call) -> str:
    return str(call.node.target).split(".")[1]


@rule(*SPATIAL)
def spatial(call: Call) -> Labels:
    """Pooling and resizing work along the last axes, each channel for itself."""
    read, last = call.label(call.args[0]), SPATIAL[_name(call)]
    label = mixed(call, range(len(read.shape) - last, len(read.shape)), f"'{_name(call)}' works along these channels")
    if isinstance(call.value, (tuple, list)):
        return tuple(Label(label.at, tuple(value.shape)) for value in call.value)
    return Label(label.at, call.shape())
