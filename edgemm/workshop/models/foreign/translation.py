"""What a folder of another library is in transformers' words, and which of its weights is which."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgemm.errors import CardError, CheckpointError
from edgemm.store import json_text

Taken = Literal["whole", "transposed", "first third", "second third", "last third"]
"""How a weight is made of another: the thirds are queries, keys and values along the first axis."""
THIRDS: tuple[Taken, Taken, Taken] = ("first third", "second third", "last third")
Shapes = Mapping[str, tuple[int, ...]]
LONGEST_HEADER = 1 << 26  # bytes; safetensors allows 100 MB, and real ones have 100 kB
SHOWN = 5  # names of weights in a message


@dataclass(frozen=True)
class Translation:
    """A folder's model.

    Attributes:
        config: As transformers' ``config.json`` would say it.
        processor: As its ``preprocessor_config.json``.
        file: The weights.
        weights: Weight of transformers' model -> that of the file, and how it is taken.
    """

    config: dict[str, Any]
    processor: dict[str, Any]
    file: Path
    weights: Mapping[str, tuple[str, Taken]]


def config_in(file: Path) -> dict[str, Any]:
    """What a configuration says; {} where it is no mapping.

    Raises:
        CardError: It cannot be read.
    """
    try:
        plain = json_text.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CardError(f"cannot read '{file}'.", why=f"{err}.", fix="copy the model's folder again.") from err
    return plain if isinstance(plain, dict) else {}


def shapes_in(file: Path, fix: str) -> dict[str, tuple[int, ...]]:
    """Weight -> shape, from the head of a safetensors file.

    Raises:
        CheckpointError: It is missing, or none; ``fix`` says what to do.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("its head has no such length")
            head = json_text.loads(stream.read(length))
        return {str(name): tuple(entry["shape"]) for name, entry in head.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as err:
        raise CheckpointError(f"cannot read the weights '{file}'.", why=f"{err}".rstrip(".") + ".", fix=fix) from err


def require_all(path: Path, shapes: Shapes, used: Mapping[str, tuple[str, Taken]], unread: tuple[str, ...] = ()) -> None:
    """Hold the weights of a file against those that are asked for.

    Args:
        unread: Beginnings of names that need not be read: a classifier's last layer.

    Raises:
        CheckpointError: One is missing, or one would be left out: then the model computes something else.
    """
    asked = {name for name, _ in used.values()}
    missing = sorted(asked - shapes.keys())
    surplus = sorted(name for name in shapes.keys() - asked if not name.startswith(unread))
    if missing or surplus:
        told = [f"missing: {_first(missing)}"] if missing else []
        told += [f"with no place in the model: {_first(surplus)}"] if surplus else []
        raise CheckpointError(
            f"the weights in '{path}' are not those of the model that its configuration names.",
            why=f"{'; '.join(told)}.",
            fix="copy the folder again, weights and configuration from one place.",
        )


def refuse(path: Path, library: str, why: str) -> CardError:
    """The error of a folder that transformers has no equal of."""
    call = {
        "open_clip": f"open_clip.create_model('local-dir:{path}').visual",
        "timm": f"timm.create_model('local-dir:{path}', pretrained=True, num_classes=0)",
    }[library]
    return CardError(
        f"'{path}' is a folder of {library} whose model is not known here.",
        why=why,
        fix=f"let a function of yours return {call}, and draft its card: edgemm init mine:build --input image=3x224x224.",
    )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
