"""A folder with a folder for each name: `people/Anna/1.jpg`. Rows without a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.contracts.stream import PICTURES, SOUNDS, Pictures, Sound
from edgemm.data import manifests
from edgemm.errors import DataError


def are_in(folder: Path) -> bool:
    """Whether ``folder`` is one: it has no manifest and no file of rows, and pictures or sounds lie in folders of it."""
    if not folder.is_dir() or manifests.in_folder(folder) or any(folder.glob("*.npz")):
        return False
    return any(file.suffix.lower() in (*PICTURES, *SOUNDS) for file in folder.glob("*/*"))


def rows(folder: Path, card: Card) -> Iterator[tuple[str, str, np.ndarray]]:
    """The name, the input that a file is for, and its sample with a batch axis; files in the order of their names.

    Raises:
        DataError: No input, or several, take such files; one cannot be read.
    """
    for file in sorted(folder.glob("*/*")):
        if file.suffix.lower() not in (*PICTURES, *SOUNDS):
            continue
        kind = Pictures if file.suffix.lower() in PICTURES else Sound
        fitting = {name: part for name, part in modalities(card).items() if isinstance(part.stream(), kind)}
        if len(fitting) != 1:
            what = "picture" if kind is Pictures else "sound"
            raise DataError(
                f"'{file}' is a {what}, and the model has {len(fitting) or 'no'} inputs for that.",
                fix="write a manifest.csv with a column for each input." if fitting else "give files of the kind that the model takes.",
            )
        name, part = next(iter(fitting.items()))
        named = file.relative_to(folder).as_posix()
        try:
            yield file.parent.name, name, part.decode(named, folder)[None]
        except DataError as err:
            raise DataError(f"{folder}: {err.what}", why=err.why, fix=err.fix) from err
