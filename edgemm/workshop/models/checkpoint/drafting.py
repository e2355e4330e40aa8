"""Run a factory's model once on made-up inputs, to learn what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from edgemm.contracts import user_code
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.errors import CardError, CheckpointError
from edgemm.workshop.models.checkpoint.loading import build_module
from edgemm.workshop.models.frontend import Frontend
from edgemm.workshop.models.fused import bind

BATCH = 2


class Refused(CheckpointError):
    """The model's ``forward`` failed on the inputs it was given."""


def returned_shapes(card: Card) -> dict[str, tuple[int, ...]]:
    """Output name -> shape for a batch of 2, from one call of the card's model on made-up inputs.

    Names come from the keys of a dict or the fields of a named tuple or dataclass; else ``output`` or ``output_1``, ``output_2``.

    Raises:
        CardError: The factory cannot be found or called, ``forward`` does not take the inputs, or it returns no tensors.
        CheckpointError: The factory's code failed; names file and line.
        Refused: ``forward`` failed; names file and line too.
    """
    module = build_module(card, weights=False).eval().float()  # as ``load_model`` reads it
    rng = np.random.default_rng(0)
    inputs = {
        name: torch.from_numpy(np.stack([modality.synthetic(rng) for _ in range(BATCH)])) for name, modality in modalities(card).items()
    }
    features = Frontend(card)(inputs)
    positional, named = bind(module, card, features)
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in zip(card.inputs, features, strict=False))
    try:
        with torch.no_grad():
            returned = module(*positional, **named)
    except Exception as err:
        raise Refused(
            f"the model failed at {user_code.where(err, card)} when called with {shapes}.",
            why=f"{type(err).__name__}: {' '.join(str(err).split())[:240]}",
            fix="give the shapes its forward takes: --input image=3x64x64 --input audio=16000@16000hz --input text=tokens:16.",
        ) from err
    return {name: tuple(value.shape) for name, value in _named(returned).items()}


def _named(returned: Any) -> dict[str, torch.Tensor]:
    if isinstance(returned, torch.Tensor):
        return {"output": returned}
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        outputs: Mapping[str, Any] = {field.name: getattr(returned, field.name) for field in dataclasses.fields(returned)}
    elif isinstance(returned, Mapping):
        outputs = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, (tuple, list)):
        names = getattr(returned, "_fields", [f"output_{number}" for number in range(1, len(returned) + 1)])
        outputs = dict(zip(names, returned, strict=True))
    else:
        outputs = {}
    tensors = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    if not tensors or (len(tensors) < len(outputs) and not dataclasses.is_dataclass(returned)):
        odd = next((f"'{name}' is a {type(value).__name__}" for name, value in outputs.items() if name not in tensors), "")
        raise CardError(
            f"the model returned {type(returned).__name__}{': ' + odd if odd else ''}.",
            fix="let forward return a dict keyed by output name, a tuple, or a single tensor; tensors only.",
        )
    return tensors
