"""Where the files of a dataset lie: the split that a name says, and the folder that relative paths start at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgemm.data.manifest import SPLITS, split_named
from edgemm.errors import DataError, nearest

WORDS = re.compile(r"[a-z]+")


def split_of(path: Path) -> str:
    """The split that a word of a file's name says (``instances_val2017.json``), or else its folder's name; "" where neither does."""
    splits = {split for word in WORDS.findall(path.stem.lower()) if (split := split_named(word)) in SPLITS}
    folder = split_named(path.absolute().parent.name)
    return splits.pop() if len(splits) == 1 else folder if folder in SPLITS else ""


def named(text: str, data: str) -> list[tuple[str, Path]]:
    """The files of ``a.json,b.json`` or ``train=a.json,test=b.json``, each with its split ("" where nobody says it).

    Raises:
        DataError: A word before ``=`` is no split, or there is no such file or folder.
    """
    if os.path.exists(text):  # a name may hold a comma
        return [(split_of(Path(text)) if os.path.isfile(text) else "", Path(text))]
    files = []
    for part in text.split(","):
        word, equals, rest = part.strip().partition("=")
        split, path = (split_named(word), Path(rest)) if equals else ("", Path(word))
        if equals and split not in SPLITS:
            raise DataError(f"'{data}': '{word}' is no split.", fix=nearest(word, SPLITS))
        if not path.exists():
            raise DataError(f"'{data}' is no dataset.", why=f"there is no file or folder '{path}'.", fix="mend the path.")
        files.append((split or split_of(path), path))
    return files


def root_of(bases: Sequence[Path], below: Iterable[str], file: str) -> Path | None:
    """The first folder, one of ``bases`` or one ``below`` it, that ``file`` lies in."""
    below = list(dict.fromkeys(["", *below]))
    return next((base / sub for base in bases for sub in below if os.path.isfile(base / sub / file)), None)


def looked_in(bases: Sequence[Path], below: Iterable[str]) -> str:
    """The folders of ``root_of``, for a message."""
    listing = ", ".join(f"'{sub}'" for sub in dict.fromkeys(below) if sub)
    folders = " and ".join(f"'{base}'" for base in bases)
    return f"looked in {folders}, and in {listing} below."
