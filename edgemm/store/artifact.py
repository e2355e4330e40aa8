"""What a stage leaves behind: a main file, its siblings, and where it came from. Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from edgemm.errors import OutputError

RECORD = "artifact.json"
PIECE = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


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
    aside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except OSError as err:
        raise unwritable(path, err) from err
    finally:
        if aside:
            Path(aside).unlink(missing_ok=True)


@contextmanager
def folder_in_one_step(final: Path) -> Iterator[Path]:
    """A scratch folder beside ``final`` that takes its name when the block ends well, replacing what stood there.

    Nothing of it remains when the block raises. A kill leaves only a hidden ``.<name>.*`` folder, which the next call removes.

    Raises:
        OutputError: The place is not writable, or the disk is full.
    """
    scratch: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final)
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.{os.getpid()}.", dir=final.parent))
        scratch.chmod(0o755)
    except OSError as err:
        raise unwritable(final, err) from err
    try:
        yield scratch
        sync(scratch)
        swap(scratch, final)
    except OSError as err:
        if is_unwritable(err):
            raise unwritable(final, err) from err
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def swap(new: Path, final: Path) -> None:
    """Put folder ``new`` in the place of ``final``; between the two renames the old one still exists under a hidden name."""
    if not final.exists():
        os.replace(new, final)
        return
    old = final.parent / f".{final.name}.{os.getpid()}.old"
    os.replace(final, old)
    try:
        os.replace(new, final)
    except OSError:
        os.replace(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)


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


def show_size(size_bytes: int) -> str:
    """A size as people write it: ``812 B``, ``1.2 MiB``."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def remove_leftovers(final: Path) -> None:
    """Remove what a killed run left beside ``final``: hidden folders and files ``.<name>.<process>.*`` whose process is gone."""
    for path in final.parent.glob(f".{final.name}.*"):
        owner = path.name.removeprefix(f".{final.name}.").split(".")[0]
        if not owner.isdigit() or _is_running(int(owner)):
            continue
        if path.name.endswith(".old") and not final.exists():
            os.replace(path, final)  # killed between the two renames of swap(): the old one comes back
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


Maker = Callable[[Path], Path]
"""Fills a scratch folder and returns the main file in it."""
