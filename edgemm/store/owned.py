"""Whose a file written aside is, and whether that process still runs: told by a lock of the system (``flock``), never by its number.

A process's number means nothing in another container or on another host. A lock is let go when its process ends, however it ends: on one
machine at once, in all its containers; on NFS 4 between hosts too, for a host that vanished when the server's lease runs out. Where a file
system has no locks, or keeps them within each host (NFS with ``nolock``), the owner may live unseen: what is another host's, or cannot be
locked, counts as alive until nobody touched it for a week.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

NAME = re.compile(r"\.(?P<final>.+)\.(?P<host>[0-9a-f]{8})\.(?P<process>\d+)\.(?P<rest>\w+)(?P<kind>\.old|\.lock)?")
UNSEEN_S = 7 * 86400.0  # longer than any stage takes; what is left by a kill costs room until then, and nothing else


@functools.cache
def host() -> str:
    """This machine since it was started; the same in all its containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = platform.node()
    return hashlib.sha256(boot.encode()).hexdigest()[:8]


def new_file(final: Path, kind: str = "") -> tuple[Path, BinaryIO]:
    """A new hidden file beside ``final``, named after it, and this process's until it is closed.

    Raises:
        OSError: The place cannot be written to.
    """
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.{host()}.{os.getpid()}.", suffix=kind, dir=final.parent)
        file = os.fdopen(handle, "wb")
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if is_still(Path(name), file):
            return Path(name), file
        file.close()  # taken for a leftover before it was locked


def is_still(path: Path, file: IO[bytes] | IO[str]) -> bool:
    """Whether the open ``file`` is the one that lies at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def is_alive(path: Path) -> bool:
    """Whether the process whose file ``path`` is (of ``new_file``) may still run."""
    match = NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                can_tell = match is not None and match["host"] == host()
            except BlockingIOError:
                return True
            except OSError:  # there are no locks
                can_tell = False
            return not can_tell and time.time() - os.fstat(file.fileno()).st_mtime < UNSEEN_S
    except FileNotFoundError:
        return False
    except OSError:  # another user's, and not to be read
        return True
