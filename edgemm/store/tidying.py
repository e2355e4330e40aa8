"""Keeping the cache within its limit: what was used longest ago goes first, and nothing that a running process uses.

What is removed is made again when it is needed. Entries are renamed away while nobody can begin to use them, and removed after that.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgemm.errors import EdgemmError
from edgemm.store import in_use, owned
from edgemm.store.artifact import LOCK, RECORD, locks_last, remove_leftover

LIMIT = "EDGEMM_CACHE_LIMIT"
DEFAULT_LIMIT = 20 * 2**30
UNITS = {"": 1, "B": 1, "K": 2**10, "KIB": 2**10, "M": 2**20, "MIB": 2**20, "G": 2**30, "GIB": 2**30, "T": 2**40, "TIB": 2**40,
         "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}  # fmt: skip
LARGE = ("bundles", "engines", "manifests", "sentences")
"""Folders of the cache beside the stages': what is in them is made again, but may be as large as a model."""
SMALL = ("code", "last_good", "peaks", "sha256", "tuned")
"""Folders that the limit does not touch: a few bytes an entry, or weights that the user was told of. Only ``empty`` removes them."""
TRASH = ".trash"
STALE_S = 86400.0  # a file written aside takes seconds; one that tells no process and is a day old was left by a kill


@dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    Attributes:
        stage: Name of the stage, or of the folder, it belongs to.
        last_use: Seconds since 1970.
    """

    stage: str
    path: Path
    size_bytes: int
    last_use: float


@dataclass(frozen=True)
class Removed:
    """What tidying took away.

    Attributes:
        leftovers: Of runs that were killed.
        in_use: Entries that had to stay because a running process uses them.
    """

    entries: int = 0
    size_bytes: int = 0
    leftovers: int = 0
    in_use: int = 0


def limit() -> int:
    """Bytes the cache may take: ``$EDGEMM_CACHE_LIMIT`` (``5GiB``), or 20 GiB.

    Raises:
        EdgemmError: It is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text, re.IGNORECASE)
    if match is None or match[2].upper() not in UNITS:
        raise EdgemmError(f"{LIMIT} is '{text}', which is no size.", fix="write a number and a unit, such as 5GiB or 500MiB.")
    return int(float(match[1]) * UNITS[match[2].upper()])


def entries(root: Path) -> list[Entry]:
    """Everything edgemm keeps in a cache, used longest ago first. What it did not put there is not among it."""
    listed = [entry for folder in _folders(root) for path in _children(folder) if (entry := _entry(folder.name, path)) is not None]
    return sorted(listed, key=lambda entry: entry.last_use)


def tidy(root: Path, most_bytes: int) -> Removed:
    """Remove what killed runs left, then what was used longest ago until the rest takes no more than ``most_bytes``.

    Raises:
        OSError: The cache cannot be written to.
    """
    cached = entries(root)
    total = sum(entry.size_bytes for entry in cached)

    def unwanted(entry: Entry) -> bool:
        nonlocal total
        if total <= most_bytes or entry.stage in SMALL:
            return False
        total -= entry.size_bytes
        return True

    return _remove(root, cached, unwanted)


def empty(root: Path) -> Removed:
    """Remove everything but what running processes use.

    Raises:
        OSError: The cache cannot be written to.
    """
    return _remove(root, entries(root), lambda entry: True)


def _remove(root: Path, cached: list[Entry], unwanted: Callable[[Entry], bool]) -> Removed:
    if not root.is_dir():
        return Removed()
    leftovers = sum(_remove_leftovers(folder) for folder in _folders(root))
    gone: list[Entry] = []
    (root / TRASH).mkdir(exist_ok=True)
    with in_use.nobody_else_marks(root) as used:
        older = list((root / TRASH).iterdir())  # of processes that are removing it now, or were killed while they did
        trash = Path(tempfile.mkdtemp(dir=root / TRASH))
        busy = [entry for entry in cached if _is_used(entry, root, used)]
        for entry in cached:
            if entry not in busy and unwanted(entry):
                with suppress(FileNotFoundError):  # another process tidies too
                    os.replace(entry.path, trash / str(len(gone)))
                    gone.append(entry)
    for path in (*older, trash):
        shutil.rmtree(path, ignore_errors=True)
    return Removed(len(gone), sum(entry.size_bytes for entry in gone), leftovers, len(busy))


def _is_used(entry: Entry, root: Path, used: frozenset[str]) -> bool:
    """Whether a running process uses it, or somebody did after it was looked at."""
    if entry.path.relative_to(root).as_posix() in used:
        return True
    with suppress(OSError):
        return _last_use(entry.path) > entry.last_use
    return False


def _folders(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith("."):
            yield folder


def _children(folder: Path) -> Iterator[Path]:
    """The entries of a stage's folder, or of another folder of edgemm's; nothing of one that is not."""
    ours = folder.name in (*LARGE, *SMALL)
    for path in folder.iterdir():
        if not path.name.startswith(".") and path.suffix != ".lock" and (ours or (path / RECORD).is_file()):
            yield path


def _entry(stage: str, path: Path) -> Entry | None:
    try:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        return Entry(stage, path, sum(file.lstat().st_size for file in files if not file.is_dir()), _last_use(path))
    except FileNotFoundError:  # removed meanwhile
        return None


def _last_use(path: Path) -> float:
    return path.stat().st_mtime


def _remove_leftovers(folder: Path) -> int:
    """What killed runs left in a folder and in those below it: hidden, and nobody is making it."""
    count = 0
    for path in locks_last([*folder.glob(".*"), *(folder.glob("*/.*") if folder.name in LARGE else ())]):
        with suppress(OSError):
            if owned.NAME.fullmatch(path.name):
                count += remove_leftover(path) and path.suffix != LOCK
            elif time.time() - path.stat().st_mtime > (STALE_S if path.is_file() else owned.UNSEEN_S):
                path.unlink() if path.is_file() else shutil.rmtree(path)
                count += 1
    return count
