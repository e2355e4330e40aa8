"""Where the weights of a card that names none come from: found by building its model several times."""

from __future__ import annotations

import hashlib
from typing import Literal
from unittest import mock

import torch
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # public in the documentation, not in the stubs

from edgemm.contracts.card import Card
from edgemm.workshop.models.checkpoint.loading import build_module

Origin = Literal["brought", "drawn", "unstable"]


def origin(card: Card) -> Origin:
    """How the factory of a card without weights comes by them.

    Returns:
        ``brought`` = they do not depend on chance, as where it reads a file; ``drawn`` = at random, at least some, a seed that the factory
        sets itself counting as chance; ``unstable`` = at random, and from no seed that edgemm can set.

    Raises:
        CardError, CheckpointError: As ``build_module``.
    """
    first, again = _digest(card, 0), _digest(card, 0)
    if first != again:
        return "unstable"
    with mock.patch("torch.random.default_generator", torch.Generator()):  # what a factory's own torch.manual_seed sets
        return "brought" if _digest(card, 1) == first else "drawn"


def _digest(card: Card, seed: int) -> str:
    digest = hashlib.sha256()
    for name, value in build_module(card, seed=seed).state_dict().items():
        digest.update(f"{name} {'' if isinstance(value, UninitializedTensorMixin) else _sum(value)}".encode())
    return digest.hexdigest()


def _sum(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    return hashlib.sha256(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
