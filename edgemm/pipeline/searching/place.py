"""The folder of a search: whose it is, what it was begun for, and the files in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from edgemm.errors import OutputError
from edgemm.store.artifact import require_writable, sha256_of, write_bytes, write_json

BEST, FRONT, LOG, RECIPES, ON_DEVICE = "best", "front.json", "study.log", "recipes", "on-device"
JOURNAL, BEGUN, LOCK = "study.journal", ".search.json", ".search.lock"
FORMAT = 1


@contextmanager
def taken(folder: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """While the block runs, the folder is this process's; a search that was begun there for the same goes on.

    Args:
        about: What the trials of the search depend on, as plain values.

    Raises:
        OutputError: Another search runs there, or it holds something else than this search.
    """
    require_writable(folder / LOG)
    if not (folder / BEGUN).exists() and any(path.name != LOCK for path in folder.iterdir()):
        foreign = sorted(path.name for path in folder.iterdir() if path.name != LOCK)[0]
        raise OutputError(f"{folder} holds '{foreign}', which no search wrote.", fix="choose an empty or new folder with -o.")
    with (folder / LOCK).open("a+") as lock:
        try:
            _lock(lock)
        except BlockingIOError as err:
            lock.seek(0)
            raise OutputError(
                f"another search runs in {folder}{lock.read(200)}.",
                why="two would write one study, each over the other's trials.",
                fix="wait for it, or choose another folder with -o.",
            ) from err
        lock.truncate(0)
        lock.write(f" (process {os.getpid()} on {socket.gethostname()})")
        lock.flush()
        _begin(folder, about)
        try:
            yield
        finally:
            lock.truncate(0)


def _lock(file: IO[str]) -> None:
    """Raises BlockingIOError where another process has it; a file system without locks tells nobody."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def _begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Note what the search is for, or hold it against what was noted; a search that tried nothing yet gives way to any.

    Raises:
        OutputError: It is for something else.
    """
    digests = {name: sha256_of(value) for name, value in about.items()}
    if not any((folder / name).exists() for name in (JOURNAL, LOG)):  # what went before ended in a mistake, or an unreachable device
        write_json(folder / BEGUN, {"format": FORMAT, **digests})
        return
    try:
        before = json.loads((folder / BEGUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    changed = sorted(name for name in {*digests, *before} - {"format"} if before.get(name) != digests.get(name))
    if changed:
        raise OutputError(
            f"{folder} holds another search.",
            why=f"it was begun with other values of: {', '.join(changed)}.",
            fix="choose another folder with -o, or remove that one to search anew.",
        )


def write_log(folder: Path, lines: Sequence[str]) -> None:
    """``study.log``, whole."""
    write_bytes(folder / LOG, "".join(f"{line}\n" for line in lines).encode())
