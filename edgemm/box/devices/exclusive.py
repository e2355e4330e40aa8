"""One measurement at a time on a machine: a lock that is taken on the machine itself, by the process that measures.

It is the system's own (``flock``), so it is free when its holder has died, however that came about, and a connection that drops frees
nothing: the job goes on. Workers that time keep it open too, so that one that outlives its parent does not run beside another's. A holder
touches the lock's file every second; one that does not for ``LEASE_S`` (stopped, or hung) loses it, and is told so when it comes back.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgemm.errors import MeasureError
from edgemm.store import owned

PLACE = "EDGEMM_DEVICE_LOCK"
"""Variable that names the lock's folder, for containers that share a device: one folder that all of them see."""
FOLDERS = (Path("/run/lock/edgemm-device"), Path("/tmp/edgemm-device"))
"""Where it lies otherwise: the first that is there, or can be made; the same for all users."""
LOCK, GUARD = "lock", "guard"
LEASE_S = 30.0  # a board that swaps may hold up a thread for seconds
BEAT_S = 1.0
LOOK_S = 0.2
WRITTEN = 200  # bytes of what a holder says of itself

Tell = Callable[[str], None]
_mine = threading.RLock()
_taken: list[_Lease] = []
"""Of this process: the lease, while it has one."""


@contextmanager
def measuring(tell: Tell = lambda text: None) -> Iterator[bool]:
    """While the block runs, nobody else measures on this machine. Within it the same thread may ask again.

    Args:
        tell: Called with a sentence where another one measures and this one waits, or where the machine has no such lock.

    Yields:
        Whether it had to wait.

    Raises:
        MeasureError: At the end of the block: this process fell silent meanwhile, and another has measured beside it.
    """
    if not _mine.acquire(blocking=False):
        tell("another measurement of this command has the device; waiting for it")
        _mine.acquire()
    try:
        if _taken:
            yield False
            return
        lease, waited = _lease(tell)
        _taken.append(lease)
        try:
            yield waited
        finally:
            _taken.clear()
            lease.end()
        lease.require_kept()
    finally:
        _mine.release()


def descriptors() -> tuple[int, ...]:
    """Open files that a worker which times has to keep: while one of them is open, the device is not free."""
    return tuple(lease.file.fileno() for lease in _taken if lease.file is not None)


class _Lease:
    """The lock while it is held, and the thread that says so. ``file`` None: this machine has no such lock."""

    def __init__(self, path: Path, file: IO[bytes] | None) -> None:
        self.path, self.file = path, file
        self._over, self._is_lost = threading.Event(), False
        self._beating = threading.Thread(target=self._beat, name="device-lease", daemon=True)
        if file is not None:
            self._beating.start()

    def end(self) -> None:
        self._over.set()
        if self.file is None:
            return
        self._beating.join()
        self._look()
        with suppress(OSError):
            self.file.truncate(0)
        self.file.close()

    def require_kept(self) -> None:
        if self._is_lost:
            raise MeasureError(
                f"this process said nothing for {LEASE_S:.0f} s while it measured, and another took the device.",
                why="it was stopped, or the machine had no time for it; what both measured since then is disturbed.",
                fix="measure again.",
            )

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            self._look()

    def _look(self) -> None:
        assert self.file is not None
        with suppress(OSError):
            os.utime(self.file.fileno())
        self._is_lost = self._is_lost or not owned.is_still(self.path, self.file)


def _lease(tell: Tell) -> tuple[_Lease, bool]:
    """The lease, and whether somebody else had it."""
    folder, waited = _folder(), False
    path = folder / LOCK
    try:
        while True:
            file = _opened(path)
            waited = _wait(path, file, folder / GUARD, tell if not waited else lambda text: None) or waited
            if owned.is_still(path, file):
                break
            file.close()  # it was taken from one that fell silent
        file.truncate(0)
        file.seek(0)
        file.write(f"process {os.getpid()}, {_user()}, since {time.strftime('%H:%M:%S')}".encode())
        file.flush()
    except OSError as err:
        tell(f"{path} cannot be locked ({err.strerror or err}): nothing keeps another measurement away")
        return _Lease(path, None), waited
    return _Lease(path, file), waited


def _wait(path: Path, file: IO[bytes], guard: Path, tell: Tell) -> bool:
    """Lock ``file``, or see it replaced. Returns whether that took waiting.

    Raises:
        OSError: There are no locks here.
    """
    seen, since, waited = -1, time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return waited
        except BlockingIOError:
            pass
        if not waited:
            tell(f"another measurement{_holder(file)} has this device; waiting for it")
        waited = True
        if not owned.is_still(path, file):
            return waited
        touched = os.fstat(file.fileno()).st_mtime_ns
        if touched != seen:  # by our own clock: the machine's may jump
            seen, since = touched, time.monotonic()
        elif time.monotonic() - since > LEASE_S:
            tell(f"it{_holder(file)} has said nothing for {LEASE_S:.0f} s; taking the device")
            _take_away(path, file, guard)
        time.sleep(LOOK_S)


def _take_away(path: Path, silent: IO[bytes], guard: Path) -> None:
    """Remove the lock of a holder that fell silent; the next one makes a new file. Of several that wait, one does."""
    with _opened(guard) as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if owned.is_still(path, silent):
            path.unlink()


def _holder(file: IO[bytes]) -> str:
    """What the holder says of itself, in brackets; "" where it says nothing, or is just saying it."""
    with suppress(OSError):
        words = os.pread(file.fileno(), WRITTEN, 0).decode(errors="replace")
        return f" ({words})" if words and words.isprintable() else ""
    return ""


def _folder() -> Path:
    """The lock's folder, which every user may write into."""
    named = os.environ.get(PLACE)
    places = (Path(named),) if named else FOLDERS
    for place in places:
        if place.is_dir() and not place.is_symlink():
            return place
    for place in places:
        with suppress(OSError):
            place.mkdir(parents=bool(named))
            place.chmod(0o777)  # whoever waits may have to remove the file of one who fell silent
            return place
    return next((place for place in places if place.is_dir()), places[-1])  # another process was first


def _opened(path: Path) -> IO[bytes]:
    """A file that all users may write, opened, and made where it is not there.

    Raises:
        OSError: It cannot be.
    """
    try:  # without O_CREAT: Linux refuses that for a file of another user in some shared folders
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            os.fchmod(handle, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no file")
    return os.fdopen(handle, "r+b", buffering=0)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return f"user {os.getuid()}"
