"""Which of a file's state dicts are the weights of a module, under which of its names, and what is left over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]  # public in the documentation, not in the stubs

from edgemm.errors import CheckpointError
from edgemm.workshop.models.checkpoint.weights import SHOWN, tied_names

State = Mapping[str, torch.Tensor]

KNOWN = ("", "state_dict", "model_state_dict", "model", "module", "weights", "net", "network", "params", "_orig_mod")
"""Keys and prefixes under which trainers, DataParallel, torch.compile and Lightning put a model; the first found is taken."""
AVERAGED = re.compile(r"(^|[._])(\w*ema|ema\w*|swa\w*|avg\w*|averaged?\w*|shadow\w*|teacher\w*|target\w*)([._]|$)", re.IGNORECASE)
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "module")
"""Parts of a name that wrappers put in, of the whole model or of a part of it."""
LEFTOVERS = re.compile(r"(^|\.)(total_ops|total_params|n_averaged|num_batches_tracked|position_ids|_extra_state)$")
"""Names that profilers, averaging and older versions leave inside of modules that do not need them."""
ANCHORS = 16  # names that are looked for to find prefixes


@dataclass(frozen=True)
class Fit:
    """A state dict under one prefix, held against a module.

    Attributes:
        key: Where it stands in the file, and the prefix: what ``weights: {file, key}`` names.
        tensors: Name in the module -> tensor.
        missing, shapes, deeper: What speaks against it, in words: names the module needs, shapes that differ, and names of the file that
            say that its model had more layers, or more in a layer.
        unread: Names of the state dict that the module has no place for.
        place, prefix: What ``key`` is made of: of the state dict, and of its names.
    """

    key: str
    tensors: State
    missing: tuple[str, ...]
    shapes: tuple[str, ...]
    deeper: tuple[str, ...]
    unread: tuple[str, ...]
    place: str
    prefix: str

    @property
    def is_whole(self) -> bool:
        return not (self.missing or self.shapes or self.deeper)

    @property
    def rank(self) -> tuple[bool, int]:
        """The lower, the likelier it is what a trainer calls the model: not an average of it, and under a usual key."""
        parts = self.key.split(".")
        is_usual = all(part in KNOWN for part in parts)
        return bool(AVERAGED.search(self.key)), KNOWN.index(parts[0]) if is_usual else len(KNOWN)


def fit(module: nn.Module, states: Mapping[str, State], path: Path, *, key: str | None = None) -> list[str]:
    """Load the state dict that fits ``module``: every name there, every shape equal, once its prefix is gone.

    Args:
        states: As ``weights.read_states`` returns them.
        key: Which to take, where several fit; None = the one a trainer would call the model, never an average of it beside it.

    Returns:
        What a reader must know: which of several was taken and how to take another, and what was left over.

    Raises:
        CheckpointError: None fits; lists the first wrong shapes, missing and unexpected names. Several fit equally well. No such ``key``.
    """
    fits = _fits(module, states)
    whole = sorted((entry for entry in fits if entry.is_whole), key=lambda entry: entry.rank)
    if key is not None:
        return _load(module, _named(key, fits, whole, path), (), path)
    if not whole:
        raise _unfit(min(fits, key=lambda entry: len(entry.missing) + len(entry.shapes)), path)
    best, *others = whole
    rivals = [entry for entry in others if entry.rank == best.rank and not _same(entry, best)]
    if rivals:
        keys = ", ".join(entry.key for entry in (best, *rivals))
        raise CheckpointError(
            f"several state dicts in '{path}' fit the model: {keys}.",
            why="nothing says which of them is meant.",
            fix=f"name one in the card: {_spelled(path, best)}",
        )
    return _load(module, best, [entry for entry in others if not _same(entry, best)], path)


def _load(module: nn.Module, chosen: Fit, others: Sequence[Fit], path: Path) -> list[str]:
    module.load_state_dict(dict(chosen.tensors), strict=False)
    notes = [
        f"'{path.name}' holds the weights several times: those under '{chosen.key}' are taken; for those under '{other.key}' write "
        f"{_spelled(path, other)} in the card."
        for other in others
    ]
    named = tuple(other.prefix for other in others if other.place == chosen.place and other.prefix)
    unread = tuple(name for name in chosen.unread if not name.startswith(named))
    if unread:
        notes.append(f"'{path.name}' holds what the model has no place for, left out: {_listed(unread)}.")
    return notes


def _fits(module: nn.Module, states: Mapping[str, State]) -> list[Fit]:
    own = module.state_dict()
    tied = tied_names(own)
    found: dict[str, Fit] = {}
    for place, state in states.items():
        for shorten in (lambda name: name, _unwrapped):
            names = {shorten(name): name for name in own}
            given = {shorten(name): value for name, value in state.items()}
            if len(names) < len(own) or len(given) < len(state):
                continue  # names would fall together
            for outer in _common(names):
                bare = {name.removeprefix(outer): full for name, full in names.items()}
                for prefix in _prefixes(bare, given):
                    entry = _held(place, prefix, bare, given, own, tied)
                    if entry.key not in found or (entry.is_whole and not found[entry.key].is_whole):
                        found[entry.key] = entry
    return list(found.values())


def _held(place: str, prefix: str, names: Mapping[str, str], given: State, own: State, tied: Mapping[str, set[str]]) -> Fit:
    """``given`` under ``prefix`` held against the module's ``names`` (name in the file -> name in the module)."""
    tensors = {full: given[prefix + name] for name, full in names.items() if prefix + name in given}
    missing = [name for name in own if name not in tensors and not tied[name] & set(tensors) and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name}: the file has {tuple(value.shape)}, the factory builds {tuple(own[name].shape)}"
        for name, value in tensors.items()
        if not isinstance(own[name], UninitializedTensorMixin) and own[name].shape != value.shape
    ]
    unread = [name for name in given if not (name.startswith(prefix) and name.removeprefix(prefix) in names)]
    deeper = [name for name in unread if name.startswith(prefix) and _belongs(name.removeprefix(prefix), names)]
    key = ".".join(part for part in (place, prefix.rstrip(".")) if part)
    return Fit(key, tensors, tuple(missing), tuple(shapes), tuple(deeper), tuple(unread), place, prefix)


def _belongs(name: str, names: Iterable[str]) -> bool:
    """Whether a name that the module lacks is one more layer in a row of its layers, or one more tensor of a layer of its own."""
    if LEFTOVERS.search(name):
        return False
    parts = name.split(".")
    holders = {known.rpartition(".")[0] for known in names}
    if len(parts) > 1 and ".".join(parts[:-1]) in holders:
        return True
    rows = {match[1] for known in names for match in re.finditer(r"(?=((?:^|.*\.))\d+\.)", known)}
    for index, part in enumerate(parts[:-1]):
        row = "".join(f"{before}." for before in parts[:index])
        if part.isdigit() and row in rows:
            return not any(known.startswith(f"{row}{part}.") for known in names)
    return False


def _prefixes(names: Iterable[str], given: Iterable[str]) -> list[str]:
    """What stands before names of the module in names of the file; "" is always among them."""
    longest = sorted(names, key=len, reverse=True)[:ANCHORS]
    ends = {name[: -len(anchor)] for name in given for anchor in longest if name == anchor or name.endswith(f".{anchor}")}
    return sorted({"", *ends}, key=lambda prefix: (len(prefix), prefix))


def _common(names: Iterable[str]) -> list[str]:
    """Prefixes that all names share, such as that of a module that wraps another: "", "net.", "net.body."."""
    first, *rest = [name.split(".")[:-1] for name in names] or [[]]
    shared = 0
    while shared < len(first) and all(parts[: shared + 1] == first[: shared + 1] for parts in rest):
        shared += 1
    return ["".join(f"{part}." for part in first[:length]) for length in range(shared + 1)]


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _named(key: str, fits: list[Fit], whole: list[Fit], path: Path) -> Fit:
    """The fit that a card's key names: itself, or the one whole fit inside of it."""
    inside = [entry for entry in whole if entry.key == key] or [entry for entry in whole if entry.key.startswith(f"{key}.")]
    if inside:
        return inside[0]
    broken = [entry for entry in fits if entry.key == key or entry.key.startswith(f"{key}.")]
    if broken:
        raise _unfit(min(broken, key=lambda entry: len(entry.missing) + len(entry.shapes)), path)
    raise CheckpointError(
        f"'{path}' holds no state dict under the key '{key}'.",
        fix=f"these are there: {', '.join(entry.key or '(at the top: leave key out)' for entry in whole or fits)}.",
    )


def _same(one: Fit, other: Fit) -> bool:
    return all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items() if name in other.tensors)


def _spelled(path: Path, entry: Fit) -> str:
    return f"weights: {{file: {path.name}, key: {entry.key}}}"


def _unfit(entry: Fit, path: Path) -> CheckpointError:
    unexpected = entry.unread if entry.missing or entry.shapes else entry.deeper
    lists = [("shapes differ", entry.shapes), ("missing", entry.missing), ("unexpected", unexpected)]
    return CheckpointError(
        f"the weights in '{path}' do not fit the model that the factory builds.",
        why="; ".join(f"{what}: {_listed(names)}" for what, names in lists if names) + ".",
        fix="set the card's kwargs to those the weights were trained with, or name the weights of this model.",
    )


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
