"""Weights of single branches, from files or Hugging Face folders of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from edgemm.contracts.card import Card
from edgemm.errors import CheckpointError, nearest
from edgemm.workshop.models.checkpoint.weights import SHOWN, read_states

FORMS = ("encoders.{0}", "{0}", "{0}_encoder", "encoder_{0}", "{0}_branch", "{0}_tower", "{0}_model", "branches.{0}")
"""Where the branch of an input stands in a model, by usual names."""
IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


def load(module: nn.Module, card: Card, note: Callable[[str], None]) -> None:
    """Bring the card's ``weights: {image: a.safetensors, text: minilm/}`` into the branches; what did not fit is noted by name.

    Raises:
        CheckpointError: A file cannot be read, the model has no such branch, or nothing in a file fits it.
    """
    for name, file in card.branch_weights.items():
        part = branch_of(module, name)
        path = card.folder / file
        best = max((_held(part, state) for state in read_states(_file(path)).values()), key=lambda held: len(held.tensors))
        if not best.tensors:
            raise CheckpointError(
                f"nothing in '{path}' fits the branch '{name}'.",
                why=f"the branch needs {_listed(sorted(part.state_dict()))}; the file has {_listed(best.surplus)}.",
                fix="name the weights that this branch was trained with, or build the branch that these belong to.",
            )
        part.load_state_dict(best.tensors, strict=False)
        if best.missing:
            note(f"weights.{name}: '{file}' lacks {_listed(best.missing)}; these stay as they were drawn.")
        if best.surplus:
            note(f"weights.{name}: '{file}' holds what the branch has no place for, left out: {_listed(best.surplus)}.")


def branch_of(module: nn.Module, name: str) -> nn.Module:
    """The submodule of a branch: an input's name, or the submodule's own.

    Raises:
        CheckpointError: There is none.
    """
    known = dict(module.named_modules())
    found = next((known[form.format(name)] for form in FORMS if form.format(name) in known), None)
    if found is None:
        fix = nearest(name, [key for key in known if key and key.count(".") <= 1])
        raise CheckpointError(f"weights.{name}: the model has no branch of that name.", why="it names an input or a submodule.", fix=fix)
    return found


class _Held:
    """A state dict held against a branch under one prefix each."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], missing: Sequence[str], surplus: Sequence[str]) -> None:
        self.tensors, self.missing, self.surplus = tensors, tuple(missing), tuple(surplus)


def _held(part: nn.Module, state: Mapping[str, torch.Tensor]) -> _Held:
    own = part.state_dict()
    pairs = [(ours, theirs) for ours in _prefixes(own) for theirs in _prefixes(state)]
    return max((_under(own, state, *pair) for pair in pairs), key=lambda held: len(held.tensors))


def _under(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], ours: str, theirs: str) -> _Held:
    places = {theirs + name.removeprefix(ours): name for name in own if name.startswith(ours)}
    fitting = {places[name]: value for name, value in state.items() if name in places and own[places[name]].shape == value.shape}
    taken = {name for name in state if places.get(name) in fitting}
    return _Held(fitting, [name for name in own if name not in fitting], [name for name in state if name not in taken])


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """Beginnings of names, up to three parts deep: wrappers of a whole model, or of a part of it."""
    beginnings = {"".join(f"{part}." for part in name.split(".")[:depth]) for name in names for depth in range(4)}
    return sorted(beginnings, key=lambda prefix: (prefix.count("."), prefix))


def _file(path: Path) -> Path:
    return next((path / name for name in IN_FOLDER if (path / name).is_file()), path) if path.is_dir() else path


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
