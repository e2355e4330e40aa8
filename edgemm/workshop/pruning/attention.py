"""Multi-head attention whose heads can be taken out: a stand-in for ``nn.MultiheadAttention`` with the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """Takes and returns what ``nn.MultiheadAttention`` does, with a linear layer each for queries, keys, values and output.

    Why: torch slices one packed weight inside ``forward``, and ties the width inside to the width outside. Here the size of a head is
    fixed and their number follows from the layers' widths.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
    """

    in_proj_bias = None  # with this, and the next, TransformerEncoderLayer leaves its packed fast path alone
    in_proj_weight = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_dim, self.embed_dim = attention.head_dim, attention.embed_dim
        self.batch_first, self.dropout = attention.batch_first, attention.dropout
        if attention._qkv_same_embed_dim:
            weights = attention.in_proj_weight.detach().chunk(3)
        else:
            weights = tuple(weight.detach() for weight in (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight))
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.detach().chunk(3)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.out_proj = _linear(
            attention.out_proj.weight.detach(), None if attention.out_proj.bias is None else attention.out_proj.bias.detach()
        )
        self.train(attention.training)

    @property
    def num_heads(self) -> int:
        return self.query.out_features // self.head_dim

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(N, T, width) with ``batch_first``, (T, N, width) without, (T, width) for one sample; masks as torch takes them."""
        alone = query.dim() == 2
        inputs = [x.unsqueeze(0) if alone else x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        projections = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer, x in zip(projections, inputs, strict=True))
        scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-2, -1))
        if attn_mask is not None:
            scores = scores + _heads(_additive(attn_mask, scores), scores)
        if key_padding_mask is not None:
            padding = key_padding_mask.unsqueeze(0) if key_padding_mask.dim() == 1 else key_padding_mask
            scores = scores + _additive(padding, scores).unsqueeze(1).unsqueeze(1)
        shares = scores.softmax(-1)
        used = F.dropout(shares, self.dropout, self.training)
        out = self.out_proj(torch.matmul(used, v).transpose(1, 2).flatten(2))
        out = out.squeeze(0) if alone else out if self.batch_first else out.transpose(0, 1)
        if not need_weights:
            return out, None
        shares = used.mean(1) if average_attn_weights else used
        return out, shares.squeeze(0) if alone else shares


def split_attention(module: nn.Module, names: Sequence[str] | None = None) -> list[str]:
    """Replace attention layers inside ``module``, in place.

    Args:
        names: Those to replace; None = all that can be (not those with extra key rows).

    Returns:
        The names of the replaced ones.
    """
    replaced = replaceable(module) if names is None else list(names)
    stand_ins: dict[int, SplitAttention] = {}
    for name in replaced:
        attention = module.get_submodule(name)
        parent, _, attribute = name.rpartition(".")
        if isinstance(attention, nn.MultiheadAttention):
            stand_ins.setdefault(id(attention), SplitAttention(attention))
            setattr(module.get_submodule(parent), attribute, stand_ins[id(attention)])
    return replaced


def replaceable(module: nn.Module) -> list[str]:
    """Names of the attention layers that ``split_attention`` can replace; subclasses and those with extra key rows stay."""

    def can(part: nn.Module) -> bool:
        return type(part) is nn.MultiheadAttention and part.bias_k is None and not part.add_zero_attn

    return [name for name, part in module.named_modules(remove_duplicate=False) if name and can(part)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    """A boolean mask (True = may not be seen) as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(mask, float("-inf"))


def _heads(mask: Tensor, scores: Tensor) -> Tensor:
    """(T, S) as it is; (N * heads, T, S) as (N, heads, T, S)."""
    return mask if mask.dim() == 2 else mask.unflatten(0, (scores.shape[0], -1))
