"""Which tokens become one: bipartite soft matching, written with comparisons and matrix products alone.

Neither sorting nor scattering: the same few operators run on every target, with static shapes, and nothing in them depends on other rows.

Source: Bolya et al. 2022, "Token Merging: Your ViT But Faster", section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_NORM = 1e-6


def assignment(keys: Tensor, count: int, protected: int) -> Tensor:
    """Which token goes where.

    Every second token looks for the most alike of the others; the ``count`` pairs that are most alike become one.

    Args:
        keys: (N, T, width): what tokens are compared by, an attention layer's keys.
        count: Tokens that go, at most half of those not protected.
        protected: So many first tokens stay by themselves.

    Returns:
        float (N, T - count, T), 1 where token (last axis) becomes part of token (middle axis), in each column once.
    """
    free = keys[:, protected:]
    free = free / free.norm(dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
    ours, others = free[:, ::2], free[:, 1::2]
    best, partner = torch.matmul(ours, others.transpose(1, 2)).max(-1)
    looking, stay = ours.shape[1], ours.shape[1] - count
    device = keys.device
    index = torch.arange(looking, device=device)
    before = index.unsqueeze(0) < index.unsqueeze(1)  # (looking, looking): of two that are as alike the earlier comes first
    mine, theirs = best.unsqueeze(2), best.unsqueeze(1)
    rank = ((theirs > mine) | ((theirs == mine) & before)).to(torch.int64).sum(-1)
    places = torch.where(rank < count, partner + protected + stay, rank - count + protected)
    fixed = torch.cat([torch.arange(protected, device=device), torch.arange(others.shape[1], device=device) + protected + stay])
    fixed = fixed.unsqueeze(0) + 0 * places[:, :1]  # the same for every row of the batch
    together = torch.cat([fixed[:, :protected], places, fixed[:, protected:]], 1)
    together = together.index_select(1, _in_order(keys.shape[1], protected, device))
    wanted = torch.arange(keys.shape[1] - count, device=device)
    return (together.unsqueeze(1) == wanted.view(1, -1, 1)).to(keys.dtype)


def going(tokens: int, count: int, protected: int, leave: int | None) -> int:
    """How many of ``tokens`` go after a layer where ``count`` are to: all of them, or as long as ``leave`` stay."""
    return count if leave is None else max(0, min(count, (tokens - protected) // 2, tokens - leave))


def left(tokens: int, count: int, protected: int, leave: int | None, layers: int) -> list[int]:
    """Tokens that each of ``layers`` works on."""
    every = [tokens]
    while len(every) < layers:
        every.append(every[-1] - going(every[-1], count, protected, leave))
    return every


def most(tokens: int, protected: int, layers: int, leave: int | None = None) -> int:
    """The most tokens that can go after a layer: never more than every second one that is not protected, and after each but the last of
    ``layers``; with ``leave`` only as long as so many stay.
    """
    free = tokens - protected
    if leave is not None:
        return max(0, min(free // 2, tokens - leave))
    return next((count for count in range(free, 0, -1) if _fits(free, count, layers - 1)), 0)


def _fits(free: int, count: int, merges: int) -> bool:
    return all(count <= (free - done * count) // 2 for done in range(merges))


def _in_order(tokens: int, protected: int, device: torch.device) -> Tensor:
    """Where each token stands among: protected, every second of the others, the rest."""
    free = torch.arange(tokens - protected, device=device)
    looking = (tokens - protected + 1) // 2
    places = torch.where(free % 2 == 0, free // 2, looking + free // 2) + protected
    return torch.cat([torch.arange(protected, device=device), places])
