"""Who uses what in a cache, and who is making what: so that nothing is made twice at once, nor taken from under a running process.

Both are told by locks of the system (``flock``), which end with the process that holds them, however it ends. Where a file system has
none, two may make the same, and what another process uses counts as used for a week (see ``owned``).
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgemm.store import owned

USERS, MAKING, LIST = ".users", ".making", "list"
_lists: dict[Path, tuple[Path, IO[bytes], set[str]]] = {}
"""Of this process: cache -> its list of what it uses, that file open and locked until it ends, and what is in it."""


def mark(root: Path, place: Path) -> None:
    """Say that this process uses ``place``, from now until it ends. To be said before one looks whether it is there."""
    name = place.relative_to(root).as_posix()
    with suppress(OSError):  # a cache that cannot be written to cannot be tidied either
        if root not in _lists or not owned.is_still(*_lists[root][:2]):
            (root / USERS).mkdir(parents=True, exist_ok=True)
            _lists[root] = (*owned.new_file(root / USERS / LIST), set())
            atexit.register(_lists[root][1].close)
        _, file, marked = _lists[root]
        if name not in marked:
            with _users_locked(root, fcntl.LOCK_SH):
                file.write(f"{name}\n".encode())
                file.flush()
            marked.add(name)


def used(root: Path, pid: int | None = None) -> frozenset[str]:
    """What a process of this machine uses of a cache so far, as paths below ``root``; without ``pid`` this process."""
    if pid is None:
        return frozenset(_lists[root][2]) if root in _lists else frozenset()
    lists = (root / USERS).glob(f".{LIST}.{owned.host()}.{pid}.*")
    with suppress(OSError):
        return frozenset(name for path in lists for name in path.read_text().splitlines())
    return frozenset()


@contextmanager
def nobody_else_marks(root: Path) -> Iterator[frozenset[str]]:
    """While the block runs, no process marks anything; gives what running processes use, as paths below ``root``.

    Raises:
        OSError: The cache cannot be written to.
    """
    (root / USERS).mkdir(parents=True, exist_ok=True)
    with _users_locked(root, fcntl.LOCK_EX):
        yield frozenset(name for path in (root / USERS).glob(f".{LIST}.*") for name in _living(path))


@contextmanager
def making(root: Path, place: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """While the block runs, no other process makes ``place``; where one does, wait for it.

    Args:
        waiting: Called once, with a sentence, where this process has to wait.
    """
    lock = _lock_of(root, place)
    file = _acquired(lock, place, waiting)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                lock.unlink()
            file.close()


def _acquired(lock: Path, folder: Path, waiting: Callable[[str], None] | None) -> IO[str] | None:
    """The lock file of ``folder``, locked; None where the file system has no locks."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = lock.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    waiting(f"another process{_owner(file)} is making {folder.parent.name} {folder.name[:8]}; waiting for it")
                    waiting = None
                fcntl.flock(file, fcntl.LOCK_EX)
            if owned.is_still(lock, file):
                break
            file.close()  # whoever had it removed the file when done
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except OSError:
        return None
    return file


def _owner(file: IO[str]) -> str:
    file.seek(0)
    text = file.read(20)
    return f" ({text})" if text.isdigit() else ""


def _lock_of(root: Path, folder: Path) -> Path:
    return root / MAKING / folder.relative_to(root).as_posix().replace("/", "-")


def _living(path: Path) -> list[str]:
    """What a list names; a list whose process has ended names nothing and is removed."""
    with suppress(OSError):
        if owned.is_alive(path):
            return path.read_text().splitlines()
        path.unlink(missing_ok=True)
    return []


@contextmanager
def _users_locked(root: Path, how: int) -> Iterator[None]:
    with (root / USERS / "lock").open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, how)
        yield
