"""Layers that torch's exporter writes wrongly or not at all, in forms that it can write, while a model is traced.

Each form computes the same; the export's parity is the proof on real samples.

- Attention without an axis for heads, or with rows in which every key is shut out.
- ``EmbeddingBag``: an embedding, and a sum over the bag.
- An LSTM with ``proj_size``: its state is a linear image of a plain LSTM's, so a plain LSTM with the product of both recurrent
  weights does it, and a linear layer behind it.
- ``pack_padded_sequence``: the padded sequence and its lengths; what stands behind the end of a sequence is told to the gates, which
  then hold the state as it is. For that the input gets one column more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence

SDPA = nn.functional.scaled_dot_product_attention
CLOSED_GATE = 128.0  # what a gate gets behind the end: its sigmoid is 1 to the last bit of a float32, that of its negative all but zero


class Unwritable(Exception):
    """A use of such a layer that has no other form.

    Attributes:
        why, fix: As an ``EdgemmError`` says them.
    """

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what)
        self.why, self.fix = why, fix


@contextlib.contextmanager
def exportable() -> Iterator[None]:
    """While tracing, let these layers be computed in forms that ONNX has."""
    with contextlib.ExitStack() as stack:
        for name, form in (("pack_padded_sequence", _pack_here), ("pad_packed_sequence", _pad_here)):
            stack.enter_context(_computed_by(getattr(rnn, name), form.__code__))
        stack.enter_context(mock.patch.object(nn.functional, "embedding_bag", embedding_bag))
        stack.enter_context(mock.patch.object(nn.functional, "scaled_dot_product_attention", attention))
        for kind in (nn.LSTM, nn.GRU, nn.RNN):
            stack.enter_context(mock.patch.object(kind, "forward", _forward(kind.forward)))
        yield


@contextlib.contextmanager
def _computed_by(function: Any, code: CodeType) -> Iterator[None]:
    """A user may have imported ``function`` by its name, so it keeps its identity and gets another body."""
    before, function.__code__ = function.__code__, code
    try:
        yield
    finally:
        function.__code__ = before


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """``nn.functional.embedding_bag`` of bags of one size, (N, bag) -> (N, width).

    Raises:
        Unwritable: Bags are told by offsets, or the weights change when they are read.
    """
    if offsets is not None or input.dim() != 2 or max_norm is not None:
        raise Unwritable(
            "EmbeddingBag has no form in ONNX with " + ("max_norm." if max_norm is not None else "offsets."),
            why="every bag is of another size, which only the values tell."
            if max_norm is None
            else "it changes weights when they are read.",
            fix="give it ids of shape (N, length), padded with padding_idx, and no max_norm.",
        )
    vectors = embedding(input, weight)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    if padding_idx is None:
        return vectors.amax(1) if mode == "max" else vectors.sum(1) if mode == "sum" else vectors.mean(1)
    counts = (input != (padding_idx if padding_idx >= 0 else weight.shape[0] + padding_idx)).unsqueeze(-1)
    if mode == "max":
        highest = torch.where(counts, vectors, torch.full_like(vectors, torch.finfo(vectors.dtype).min)).amax(1)
        return torch.where(counts.any(1), highest, torch.zeros_like(highest))
    total = (vectors * counts.to(vectors.dtype)).sum(1)
    return total if mode == "sum" else total / counts.to(vectors.dtype).sum(1).clamp(min=1)


def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
    """``nn.functional.scaled_dot_product_attention``: with an axis for heads, and zero where all keys are shut out, as in torch."""
    if query.dim() == 3:
        mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
        return attention(query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), mask, *rest, **options).squeeze(1)
    if attn_mask is None:
        return SDPA(query, key, value, None, *rest, **options)
    is_open = attn_mask if attn_mask.dtype == torch.bool else attn_mask != float("-inf")
    is_read = is_open.any(-1, keepdim=True)
    mask = attn_mask | ~is_read if attn_mask.dtype == torch.bool else torch.where(is_read, attn_mask, torch.zeros_like(attn_mask))
    return SDPA(query, key, value, mask, *rest, **options) * is_read.to(query.dtype)


def _pack_here(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
    from edgemm.workshop.models.exportable import pack  # runs with the globals of torch's file

    return pack(input, lengths, batch_first)


def _pad_here(sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: Any = None) -> Any:
    from edgemm.workshop.models.exportable import pad  # runs with the globals of torch's file

    return pad(sequence, batch_first, padding_value, total_length)


def pack(input: Tensor, lengths: Any, batch_first: bool) -> PackedSequence:
    """The padded sequence as ``data`` (N, T, width), its lengths (N,) as ``batch_sizes``."""
    if not isinstance(lengths, Tensor):
        raise Unwritable(
            "the lengths given to pack_padded_sequence are no tensor.",
            why="a list of numbers is fixed when the model is traced.",
            fix="compute them as a tensor, such as (ids != 0).sum(1), or give them to forward as an input of their own.",
        )
    return PackedSequence(input if batch_first else input.transpose(0, 1), lengths.to(torch.int64))


def pad(sequence: PackedSequence, batch_first: bool, value: float, total_length: int | None) -> tuple[Tensor, Tensor]:
    """What ``pack`` packed, with ``value`` behind every end; as long as what was packed, not as the longest of the batch."""
    data, lengths = sequence.data, sequence.batch_sizes
    padded = torch.where(_behind(data, lengths), torch.full_like(data, value), data)
    if total_length is not None and total_length > data.shape[1]:
        padded = nn.functional.pad(padded, (0, 0, 0, total_length - data.shape[1]), value=value)
    return padded if batch_first else padded.transpose(0, 1), lengths


def _behind(data: Tensor, lengths: Tensor) -> Tensor:
    """Whether a step lies behind its sequence's end, (N, T, 1)."""
    return (torch.arange(data.shape[1], device=data.device) >= lengths.unsqueeze(1)).unsqueeze(2)


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, input: Any, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            output, states = _layers(self, input.data, input.batch_sizes, hx)
            return PackedSequence(output, input.batch_sizes), states
        if getattr(self, "proj_size", 0) and input.dim() == 3:
            output, states = _layers(self, input if self.batch_first else input.transpose(0, 1), None, hx)
            return output if self.batch_first else output.transpose(0, 1), states
        return original(self, input, hx)

    return forward


def _layers(layer: Any, x: Tensor, lengths: Tensor | None, hx: Any) -> tuple[Tensor, Any]:
    """All of a recurrent layer, (N, T, width) in and out, and its last states as the layer returns them."""
    is_lstm = isinstance(layer, nn.LSTM)
    if not is_lstm and not isinstance(layer, nn.GRU):
        raise Unwritable(
            "an RNN on a packed sequence has no form in ONNX.",
            why="it has no gate that could hold its state behind a sequence's end.",
            fix="use a GRU or an LSTM there, or leave the packing out.",
        )
    if is_lstm and hx is not None and (layer.proj_size or layer.bidirectional):
        raise Unwritable(
            f"an LSTM with {'proj_size' if layer.proj_size else 'a packed sequence, in both directions,'} and a state of its own to start "
            "from has no form in ONNX.",
            why="its first state would have to be known in front of the padding and of the projection.",
            fix="let it start from zeros (leave hx out), or leave the packing and proj_size out.",
        )
    directions = 2 if layer.bidirectional else 1
    hidden, cells, behind = [], [], None if lengths is None else _behind(x, lengths)
    for number in range(layer.num_layers):
        names = [f"_l{number}{suffix}" for suffix in ("", "_reverse")[:directions]]
        start = [_start(layer, x, state, number, directions) for state in (hx if is_lstm and hx is not None else [hx] * (1 + is_lstm))]
        if behind is not None:
            x = torch.cat([x, behind.to(x.dtype)], 2)
        weights = [weight for name in names for weight in _weights(layer, name, is_lstm, behind is not None)]
        end = (weights, layer.bias, 1, 0.0, False, layer.bidirectional, True)
        x, *last = torch._VF.lstm(x, tuple(start), *end) if is_lstm else torch._VF.gru(x, start[0], *end)
        if is_lstm:
            x, last[0] = _ends(layer, x, last[0], names, lengths)
            cells.append(last[1])
        hidden.append(last[0])
    states = torch.cat(hidden)
    return x, (states, torch.cat(cells)) if is_lstm else states


def _start(layer: Any, x: Tensor, state: Tensor | None, number: int, directions: int) -> Tensor:
    if state is not None:
        return state[number * directions : (number + 1) * directions]
    return x.new_zeros((directions, x.shape[0], layer.hidden_size))


def _weights(layer: Any, name: str, is_lstm: bool, is_packed: bool) -> list[Tensor]:
    """One direction's, with the column for what is behind the end, and with the projection taken into the recurrence."""
    inner, recurrent = getattr(layer, f"weight_ih{name}"), getattr(layer, f"weight_hh{name}")
    if is_packed:
        size = layer.hidden_size
        held = [(-CLOSED_GATE, size), (CLOSED_GATE, size), (0.0, 2 * size)] if is_lstm else [(0.0, size), (CLOSED_GATE, size), (0.0, size)]
        inner = torch.cat([inner, torch.cat([inner.new_full((rows, 1), value) for value, rows in held])], 1)
    if getattr(layer, "proj_size", 0):
        recurrent = recurrent @ getattr(layer, f"weight_hr{name}")
    biases = [getattr(layer, f"bias_{kind}{name}") for kind in ("ih", "hh")] if layer.bias else []
    return [inner, recurrent, *biases]


def _ends(layer: Any, x: Tensor, last: Tensor, names: list[str], lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """An LSTM's output, projected where it is, and its last output by direction, (directions, N, width)."""
    halves = list(x.split(layer.hidden_size, 2))
    if layer.proj_size:
        weights = [getattr(layer, f"weight_hr{name}") for name in names]
        halves = [linear(half, weight) for half, weight in zip(halves, weights, strict=True)]
        last = torch.stack([linear(state, weight) for state, weight in zip(last, weights, strict=True)])
    if lengths is not None:  # behind the end the cell is held, but what it shows depends on the padding
        index = (lengths - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, halves[0].shape[2])
        forward = halves[0].gather(1, index).transpose(0, 1)
        last = torch.cat([forward, last[1:]]) if len(halves) == 2 else forward
    return torch.cat(halves, 2) if len(halves) == 2 else halves[0], last
