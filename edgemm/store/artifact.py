"""What a stage leaves behind: a main file, its siblings, and where it came from. Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgemm.errors import OutputError
from edgemm.store import owned

RECORD = "artifact.json"
PIECE = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
OLD, LOCK = ".old", ".lock"
ODD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


@dataclass(frozen=True)
class Artifact:
    """A finished stage on disk.

    Attributes:
        main: The main file; its siblings lie in the same folder.
        provenance: Plain facts about how it was made (stage, options, versions); nothing that changes from run to run.
    """

    main: Path
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.main.parent

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file() and path.name != RECORD)

    def sibling(self, name: str) -> Path:
        return self.folder / name


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    for piece in pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def pieces(content: Path | bytes) -> Iterator[bytes]:
    """Content that lies in a file, a mebibyte at a time, or in memory."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def sha256_of(value: Any) -> str:
    """Hex digest of plain values (JSON with sorted keys)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is the same bytes for the same value; replaces the file in one step."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step.

    Raises:
        OutputError: As ``file_in_one_step``.
    """
    with file_in_one_step(path) as file:
        file.write(content)


@contextmanager
def file_in_one_step(path: Path) -> Iterator[BinaryIO]:
    """A file to write to beside ``path`` that takes its place when the block ends well; nothing is left of it when the block raises.

    Raises:
        OutputError: The place is not writable, or the disk is full.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside, file = owned.new_file(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(aside, 0o644)
            os.replace(aside, path)
    except OSError as err:
        raise unwritable(path, err) from err
    finally:
        if aside:
            aside.unlink(missing_ok=True)


@contextmanager
def folder_in_one_step(final: Path, *, keep: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """A scratch folder beside ``final`` that takes its name when the block ends well, replacing what stood there.

    Nothing of it remains when the block raises. A kill leaves only hidden things, which the next call removes (see ``owned``).

    Args:
        keep: Asked where something stands there in the end: whether that stays instead, since another process was first with the same.

    Raises:
        OutputError: The place is not writable, or the disk is full.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        lock, held = owned.new_file(final, LOCK)
    except OSError as err:
        raise unwritable(final, err) from err
    scratch = lock.with_suffix("")
    with held:
        try:
            scratch.mkdir()
            scratch.chmod(0o755)
            yield scratch
            sync(scratch)
            swap(scratch, final, keep)
        except OSError as err:
            if is_unwritable(err):
                raise unwritable(final, err) from err
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


def swap(new: Path, final: Path, keep: Callable[[], bool] = lambda: False) -> None:
    """Put folder ``new`` in the place of ``final``; between the two renames the old one still exists under a hidden name."""
    old = new.with_name(f"{new.name}{OLD}")
    while True:
        try:
            os.rename(new, final)
            break
        except OSError as err:
            if err.errno not in TAKEN:
                if old.exists() and not final.exists():
                    os.rename(old, final)
                raise
        if keep():
            break
        _remove(old)  # of the last time round: another process put one there meanwhile
        with suppress(FileNotFoundError):
            os.rename(final, old)
    _remove(old)


def sync(folder: Path) -> None:
    """fsync every file below ``folder``."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def require_writable(path: Path) -> None:
    """Find out before the work starts whether ``path`` can be written.

    Raises:
        OutputError: It cannot.
    """
    parent = path if path.is_dir() else path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(b"edgemm")
    except OSError as err:
        raise unwritable(path, err) from err


def unwritable(path: Path, err: OSError) -> OutputError:
    """The error that says why ``path`` cannot be written: a full disk, or what else the system says."""
    full = err.errno in FULL
    return OutputError(
        f"cannot write {path}.",
        why=f"{err.strerror or err}.",
        fix="free some space and run the same command again; finished stages are kept."
        if full
        else "choose another place with -o, or mend its permissions.",
    )


def is_unwritable(err: OSError) -> bool:
    """Whether ``err`` says that a place cannot be written: full, over quota, read-only or not permitted."""
    return err.errno in (*FULL, errno.EROFS, errno.EACCES, errno.EPERM)


def is_odd_name(err: OSError) -> bool:
    """Whether ``err`` says that nothing can be called so: the name is too long, its links go in a circle, a file stands for a folder."""
    return err.errno in ODD_NAMES


def show_size(size_bytes: int) -> str:
    """A size as people write it: ``812 B``, ``1.2 MiB``."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def remove_leftovers(final: Path) -> None:
    """Remove what killed runs left beside ``final``."""
    with suppress(FileNotFoundError):
        for path in locks_last(final.parent.iterdir()):
            match = owned.NAME.fullmatch(path.name)
            if match is not None and match["final"] == final.name:
                remove_leftover(path)


def locks_last(paths: Iterable[Path]) -> list[Path]:
    """In the order to remove them: what tells that a process has ended goes after what that process left."""
    return sorted(paths, key=lambda path: path.name.endswith(LOCK))


def remove_leftover(path: Path) -> bool:
    """Remove one of the hidden things that ``folder_in_one_step`` and ``file_in_one_step`` write, where its process has ended.

    Returns:
        Whether it is gone.
    """
    match = owned.NAME.fullmatch(path.name)
    if match is None:
        return False
    aside = path.name.removesuffix(match["kind"] or "")
    lock = path if path.is_file() and not match["kind"] else path.with_name(f"{aside}{LOCK}")
    if owned.is_alive(lock):
        return False
    final = path.with_name(match["final"])
    if match["kind"] == OLD and not final.exists():
        os.replace(path, final)  # killed between the two renames of swap(): the old one comes back
    elif match["kind"] != LOCK or not any(path.with_name(f"{aside}{kind}").exists() for kind in ("", OLD)):
        _remove(path)
    return not path.exists()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


Maker = Callable[[Path], Path]
"""Fills a scratch folder and returns the main file in it."""
