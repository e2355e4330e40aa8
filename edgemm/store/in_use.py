"""Who uses what in a cache, and who is making what: so that nothing is made twice at once, nor taken from under a running process.

Both are told by locks of the system (``flock``), which end with the process that holds them, however it ends. Where a file system has
none, nothing is locked and all else works.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

USERS, MAKING = ".users", ".making"
_lists: dict[Path, tuple[Path, IO[str], set[str]]] = {}
"""Of this process: cache -> its list of what it uses, that file open and locked until it ends, and what is in it."""


def mark(root: Path, place: Path) -> None:
    """Say that this process uses ``place``, from now until it ends. To be said before one looks whether it is there."""
    name = place.relative_to(root).as_posix()
    with suppress(OSError):  # a cache that cannot be written to cannot be tidied either
        if root not in _lists or not _is_still(*_lists[root][:2]):
            _lists[root] = (*_new_list(root / USERS), set())
        _, file, marked = _lists[root]
        if name not in marked:
            with _users_locked(root, fcntl.LOCK_SH):
                file.write(f"{name}\n")
                file.flush()
            marked.add(name)


@contextmanager
def nobody_else_marks(root: Path) -> Iterator[frozenset[str]]:
    """While the block runs, no process marks anything; gives what running processes use, as paths below ``root``.

    Raises:
        OSError: The cache cannot be written to.
    """
    (root / USERS).mkdir(parents=True, exist_ok=True)
    with _users_locked(root, fcntl.LOCK_EX):
        yield frozenset(name for path in (root / USERS).glob("*.list") for name in _living(path))


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


def is_being_made(root: Path, place: Path) -> bool:
    """Whether a process makes ``place`` now."""
    try:
        with _lock_of(root, place).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


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
            if _is_still(lock, file):
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


def _is_still(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock_of(root: Path, folder: Path) -> Path:
    return root / MAKING / folder.relative_to(root).as_posix().replace("/", "-")


def _new_list(folder: Path) -> tuple[Path, IO[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        path = folder / f"{os.getpid()}.{number}.list"  # processes of two containers may bear the same number
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            number += 1
            continue
        if _is_still(path, file):
            file.truncate(0)
            atexit.register(file.close)
            return path, file
        file.close()


def _living(path: Path) -> list[str]:
    """What a list names; a list whose process has ended names nothing and is removed."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().splitlines()
            path.unlink(missing_ok=True)
    except OSError:
        pass
    return []


@contextmanager
def _users_locked(root: Path, how: int) -> Iterator[None]:
    with (root / USERS / "lock").open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, how)
        yield
