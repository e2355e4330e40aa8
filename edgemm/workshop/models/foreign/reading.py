"""Which library a folder is of, and what it is in transformers' words."""

from __future__ import annotations

from pathlib import Path

from edgemm.store import json_text
from edgemm.workshop.models.foreign import open_clip, timm
from edgemm.workshop.models.foreign.translation import Translation


def translated(path: Path) -> Translation | None:
    """A folder of open_clip or timm; None of any other.

    Raises:
        CardError: Its model has no equal in transformers.
        CheckpointError: Its weights are not those of its configuration.
    """
    if not (path / timm.CONFIG).is_file():
        return open_clip.translate(path) if (path / open_clip.CONFIG).is_file() else None
    try:
        plain = json_text.loads((path / timm.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever reads it as transformers' says so
    return timm.translate(path) if isinstance(plain, dict) and timm.is_one(plain) else None


def is_folder(path: Path) -> bool:
    """Whether a model may lie there: by transformers' configuration, timm's or open_clip's."""
    return (path / timm.CONFIG).is_file() or (path / open_clip.CONFIG).is_file()
