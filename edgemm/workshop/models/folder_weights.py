"""A Hugging Face folder's weights held against what its configuration builds: what is missing, of another shape, or left over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from edgemm.errors import CheckpointError

SHOWN = 5  # names of weights in a message
UNTRAINED = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked", "inv_freq")
"""Ends of names of what earlier versions saved and nobody learned."""
HIDING = ("mask_token", "masked_spec_embed")
"""Ends of names of what stands for hidden patches in pretraining; nothing is hidden afterwards."""
POOLER = "pooler"


@dataclass(frozen=True)
class Held:
    """A model with what its folder holds.

    Attributes:
        missing: Names of weights that the folder lacks; the model has them drawn at random.
        shapes: Of weights of another shape, drawn at random too: name -> both shapes, in words.
        surplus: Names of weights that the model has no place for.
    """

    model: Any
    missing: frozenset[str] = frozenset()
    shapes: Mapping[str, str] = field(default_factory=dict)
    surplus: tuple[str, ...] = ()


def read(kind: Any, folder: Path, **options: Any) -> Held:
    """What ``kind``, a class of transformers such as ``AutoModel``, makes of a folder; raises what transformers raises."""
    model, told = kind.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
        ignore_mismatched_sizes=True, **options,
    )  # fmt: skip
    shapes = {name: f"{tuple(theirs)} where {tuple(ours)} is wanted" for name, theirs, ours in told.get("mismatched_keys") or ()}
    surplus = sorted(name for name in told["unexpected_keys"] if not name.endswith(UNTRAINED + HIDING))
    return Held(model, frozenset(told["missing_keys"]) - {*shapes}, shapes, tuple(surplus))


def require(folder: Path, held: Held, used: Sequence[nn.Module]) -> list[str]:
    """Refuse a folder that does not fit in what is used of the model; other purposes' heads are left out.

    Returns:
        What is left out, as sentences.

    Raises:
        CheckpointError: A weight that is used is missing or of another shape, so that it would be drawn at random, or there is one more
            inside of what is used, such as a layer's, so that the model would compute something else.
    """
    lacking = _of(held.model, held.missing, used)
    shapes = {name: held.shapes[name] for name in _of(held.model, held.shapes, used)}
    return _refused_or_told(folder, held, lacking, shapes, used)


def require_body(folder: Path, held: Held) -> list[str]:
    """``require`` of a model with a head for a purpose, where the folder may hold its body alone: then the head is yet to be trained."""
    model, body = held.model, f"{held.model.base_model_prefix}."
    present = {_part(name) for name in model.state_dict() if name not in held.missing and not name.startswith(body)}
    drawn = sorted(name for name in held.missing if _part(name) not in present and (not name.startswith(body) or POOLER in name.split(".")))
    if model.base_model is model:
        drawn = sorted(name for name in held.missing if _part(name) == POOLER)
    told = _refused_or_told(folder, held, sorted(held.missing - {*drawn}), held.shapes, [model])
    return [*told, *([f"'{folder.name}' lacks {listed(drawn)}: drawn at random, and to be trained."] if drawn else [])]


def _refused_or_told(folder: Path, held: Held, lacking: Sequence[str], shapes: Mapping[str, str], used: Sequence[nn.Module]) -> list[str]:
    parts = {id(module) for part in used for module in part.modules()}
    owners = {name: _owner(held.model, name) for name in held.surplus}
    inside = [name for name, owner in owners.items() if id(owner) in parts and not isinstance(owner, transformers.PreTrainedModel)]
    kinds = {
        "missing": lacking,
        "of another shape": [f"{name} {words}" for name, words in sorted(shapes.items())],
        "without a place in the model": inside,
    }
    if any(kinds.values()):
        raise CheckpointError(
            f"the weights in '{folder}' do not fit its config.json.",
            why="; ".join(f"{what}: {listed(names)}" for what, names in kinds.items() if names) + ".",
            fix="copy the folder again, weights and config.json from one place.",
        )
    left = [name for name, owner in owners.items() if id(owner) in parts or owner is held.model]
    return [f"'{folder.name}' holds what is not used here, left out: {listed(left)}."] if left else []


def listed(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join([*names][:SHOWN])}{more}"


def _of(model: nn.Module, names: Iterable[str], used: Sequence[nn.Module]) -> list[str]:
    """Those of the names whose weights are in ``used``; a weight shared with another name counts under this one too."""
    every = model.state_dict(keep_vars=True)
    needed = {id(value) for part in used for value in part.state_dict(keep_vars=True).values()}
    return sorted(name for name in names if name in every and id(every[name]) in needed)


def _owner(model: Any, name: str) -> nn.Module:
    """The innermost module that a weight's name leads to, with or without the prefix of the model's body."""
    body = f"{model.base_model_prefix}."
    paths = [_walked(model, word.split(".")[:-1]) for word in (name, name.removeprefix(body), f"{body}{name}")]
    return max(paths, key=len)[-1]


def _walked(model: nn.Module, path: Sequence[str]) -> list[nn.Module]:
    """The modules along a path, as far as there are any."""
    found = [model]
    for word in path:
        inner = dict(found[-1].named_children()).get(word)
        if inner is None:
            break
        found.append(inner)
    return found


def _part(name: str) -> str:
    return name.partition(".")[0]
