"""What was removed, as plain JSON values, and building it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from edgemm.errors import CheckpointError
from edgemm.workshop.pruning.attention import split_attention
from edgemm.workshop.pruning.cutting import Kept, cut

FORMAT = 1


def entry(attention: Sequence[str], kept: Kept) -> dict[str, Any]:
    """One round: attention layers that were replaced, and the kept positions of every parameter that lost some."""
    axes = {name: {str(axis): np.asarray(stays).tolist() for axis, stays in positions.items()} for name, positions in kept.items()}
    return {"attention": list(attention), "kept": axes}


def record(rounds: Sequence[Mapping[str, Any]], silenced: Sequence[str] = ()) -> dict[str, Any]:
    """The whole file; ``silenced`` as in ``FusedModel``."""
    return {"format": FORMAT, "rounds": list(rounds), **({"silenced": list(silenced)} if silenced else {})}


def rebuild(module: nn.Module, record: Mapping[str, Any]) -> None:
    """Give a freshly built module the structure that a record tells, in place.

    Raises:
        CheckpointError: The record is of another format, or of another model.
    """
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"the record of a pruning has format {record.get('format')!r}; this edgemm reads {FORMAT}.",
            fix="write the model again with this version.",
        )
    try:
        for done in record["rounds"]:
            split_attention(module, done["attention"])
            cut(module, {name: {int(axis): stays for axis, stays in axes.items()} for name, axes in done["kept"].items()})
    except (KeyError, IndexError, AttributeError) as err:
        raise CheckpointError(
            "the record of a pruning does not fit what the factory builds.",
            why=f"{type(err).__name__}: {err}",
            fix="use the factory and the kwargs that the model was pruned with.",
        ) from err
