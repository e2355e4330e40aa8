"""A checkpoint's files beside its weights: the card, tokenizers, records of applied steps; and a whole checkpoint copied. No torch here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm.contracts import card_file as cards
from edgemm.contracts import user_code
from edgemm.contracts.card import Card
from edgemm.contracts.member_cards import member_cards
from edgemm.errors import OutputError
from edgemm.store.artifact import folder_in_one_step, require_writable

CARD, WEIGHTS, CONFIG = "model.yaml", "weights.safetensors", "config.json"


def write(card: Card, scratch: Path, final: Path, *, branch_weights: Mapping[str, str] | None = None) -> None:
    """Write all of a checkpoint but its weights into ``scratch``, a folder that will be renamed to ``final``.

    The card written loads from anywhere as long as the factory's source stays where it is.

    Args:
        branch_weights: What the card says of its weights where there are no others than these.
    """
    placed, tokenizers = card.with_tokenizers()
    for name, content in tokenizers.items():
        (scratch / name).write_bytes(content)
    for entry in card.applied:
        for record in entry.values():
            shutil.copyfile(card.folder / record, scratch / Path(record).name)
    applied = tuple({step: Path(record).name for step, record in entry.items()} for entry in card.applied)
    written = placed.replace(
        applied=applied,
        weights=None if branch_weights else WEIGHTS,
        weights_key=None,
        branch_weights=branch_weights or {},
        source=_source(card, final),
        kwargs=_kwargs(card, scratch, final),
    )
    (scratch / CARD).write_text(written.to_yaml(), encoding="utf-8")


def copy(card: Card, folder: Path) -> Card:
    """Make ``folder`` the same checkpoint as the one ``card`` was read from, in one step; returns its card.

    Args:
        card: Its weights are a safetensors file, as ``checkpoint.save_model`` writes them.

    Raises:
        OutputError: The place cannot be written.
    """
    weights = card.weights_path
    assert weights is not None  # what a checkpoint is
    with folder_in_one_step(folder) as scratch:
        shutil.copyfile(weights, scratch / WEIGHTS)
        write(card, scratch, folder)
    return cards.load(folder)


def check_place(folder: Path, *, original: Path, apart: Path) -> None:
    """Find out, before any work, whether a checkpoint can be written at ``folder``.

    Args:
        original: The folder of the card that is compressed, which must not be replaced.
        apart: Another result, which must not lie in ``folder`` or around it: each is replaced as a whole.

    Raises:
        OutputError: It is not writable, or something would be lost.
    """
    here, other = folder.resolve(), apart.resolve()
    if here == original.resolve():
        reason = "the model that is compressed lies there."
    elif here == other or here in other.parents or other in here.parents:
        reason = f"{apart} is written too, and each is replaced as a whole."
    elif folder.is_dir():
        reason = _foreign(folder)
    else:
        reason = "it is a file." if folder.exists() else ""
    if reason:
        raise OutputError(f"cannot write a checkpoint to {folder}.", why=reason, fix="choose an empty or new folder with --checkpoint.")
    require_writable(folder.parent)


def config_path(card: Card) -> Path | None:
    """The config.json a Hugging Face card leads to, for copying and for cache keys."""
    named = card.kwargs.get("config") or card.weights
    if not named:
        return None
    path = card.folder / str(named)
    return path / "config.json" if path.is_dir() else path


def _foreign(folder: Path) -> str:
    """What in ``folder`` a checkpoint does not consist of, in words; "" where nothing would be lost."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(f".{folder.name}."))
    odd = [name for name in names if name not in (CARD, WEIGHTS) and not name.endswith(".json")]
    if odd or (names and CARD not in names):
        return f"it holds '{(odd or names)[0]}' and is no checkpoint that was written here; the folder is replaced as a whole."
    return ""


def _source(card: Card, final: Path) -> str | None:
    """The folder of the user's factory as seen from the new card; None where the import path has it."""
    if user_code.kind(card) != "own":
        return None
    root = user_code.locate(card).root
    return Path(os.path.relpath(root, final.resolve())).as_posix() if root else None


def _kwargs(card: Card, scratch: Path, final: Path) -> dict[str, Any]:
    """The kwargs, with what they name by a path relative to the old card still found from the new one."""
    kwargs = dict(card.kwargs)
    match user_code.kind(card):
        case "hf":
            config = config_path(card)
            assert config is not None  # the model was built from it
            shutil.copyfile(config, scratch / CONFIG)
            return kwargs | {"config": CONFIG}
        case "shipped":
            return moved(kwargs, card.folder, final)
        case "members":
            return kwargs | {"members": {name: _member(name, card, scratch, final) for name in kwargs["members"]}}
    return kwargs


def _member(name: str, card: Card, scratch: Path, final: Path) -> dict[str, Any]:
    """One member of a fused card as it stands among the kwargs of the new one; its records are copied beside that."""
    own = member_cards(card)[name][0]
    applied = []
    for entry in own.applied:
        for step, record in entry.items():
            there = record if record.startswith(f"{name}.") else f"{name}.{Path(record).name}"
            shutil.copyfile(own.folder / record, scratch / there)
            applied.append({step: there})
    changed = {"source": _source(own, final), "kwargs": _kwargs(own, scratch, final), "applied": applied}
    return {**card.kwargs["members"][name], **changed} if any(changed.values()) else dict(card.kwargs["members"][name])


def moved(value: Any, old: Path, new: Path) -> Any:
    """Kwargs whose files, named relative to the folder ``old``, are found from ``new``."""
    if isinstance(value, dict):
        return {key: moved(entry, old, new) for key, entry in value.items()}
    if isinstance(value, str) and user_code.leads_to_a_file(old, value) and not Path(value).is_absolute():
        return Path(os.path.relpath(old / value, new.resolve())).as_posix()
    return value
