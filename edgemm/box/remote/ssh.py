"""Another machine over ssh: commands and files, through one kept connection that is made anew when it drops.

Only OpenSSH's own client is used, with the user's own configuration and keys. A host whose key is not known is refused, nothing is asked
on the terminal, and no password is ever taken.
"""

from __future__ import annotations

import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import urlsplit

from edgemm.errors import RemoteError
from edgemm.store.artifact import sha256_file, show_size

LOST = 255  # ssh's own exit code: no connection, as opposed to the command's
PATIENCE_S = 120.0  # how long a dropped connection is tried again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
COMMAND_S = 120.0
CROWDED = ("Connection reset by", "Connection closed by", "kex_exchange_identification")
"""What ssh says of a server that begins no more connections for a moment: of 20 at once sshd refuses 3."""
CROWDED_TRIES = 5
TRANSFER_S = 3600.0
OPTIONS = {
    "BatchMode": "yes",  # never ask
    "StrictHostKeyChecking": "yes",
    "ControlMaster": "auto",
    "ControlPersist": "600",  # longer than anything that is done here between two commands
    "ConnectTimeout": "15",
    "ServerAliveInterval": "5",  # a dead link is noticed after 15 s
    "ServerAliveCountMax": "3",
}


@dataclass(frozen=True)
class SshAddress:
    """``ssh://user@host:port``; user and port may be left to ssh's configuration."""

    host: str
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def parse(url: str) -> SshAddress:
    """Read an address.

    Raises:
        RemoteError: It is none, or holds a password.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.password:
        raise RemoteError("the address holds a password.", why="it would be seen in the list of processes.", fix="use a key: ssh-copy-id.")
    name = re.fullmatch(r"[\w.:-]+", parts.hostname or "")
    is_plain = parts.scheme == "ssh" and parts.path in ("", "/") and not parts.query and not parts.fragment
    if not is_plain or name is None or port == -1 or (parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"):
        raise RemoteError(f"'{url}' is no address.", why="it is not of the form ssh://user@host:port.", fix="write ssh://nvidia@orin:22.")
    return SshAddress(str(parts.hostname), parts.username or "", port)


@dataclass(frozen=True)
class Done:
    """How a command ended there."""

    code: int
    out: str
    err: str


class Remote:
    """A connection. ``with Remote(address) as there: there.run(["uname", "-m"])``.

    Args:
        config: ssh's configuration file instead of the user's own.
        note: Told when the connection was lost and made again.

    Attributes:
        losses: How often it was lost.
    """

    def __init__(
        self, address: SshAddress, *, config: Path | None = None, patience_s: float = PATIENCE_S, note: Callable[[str], None] | None = None
    ) -> None:
        if shutil.which("ssh") is None:
            raise RemoteError("there is no ssh here.", fix="install OpenSSH's client: sudo apt-get install -y openssh-client")
        self.address, self.losses = address, 0
        self._patience_s, self._note = patience_s, note or (lambda text: None)
        self._sockets = tempfile.TemporaryDirectory(prefix="edgemm-ssh-")  # a short path: sockets allow 104 characters
        self.control = Path(self._sockets.name) / "c"
        options = {**OPTIONS, "ControlPath": str(self.control)}
        self._ssh = ["ssh", *(["-F", str(config)] if config else []), *(f"-o{key}={value}" for key, value in options.items())]
        self._ssh += ["-p", str(address.port)] if address.port else []
        self._met = False
        self._socket: tuple[int, int] | None = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.control.exists():
            subprocess.run([*self._ssh, "-O", "exit", str(self.address)], capture_output=True, check=False)
        self._sockets.cleanup()

    def run(self, words: Sequence[str] | str, *, limit_s: float = COMMAND_S) -> Done:
        """Run a command there: words that are quoted, or a line for its shell. Done again when the connection drops, so it must bear that.

        Raises:
            RemoteError: No connection, for good; or the command did not end within ``limit_s``.
        """
        line = words if isinstance(words, str) else shlex.join(words)
        return self._tried(lambda: self._once(line, limit_s=limit_s))

    def check(self, words: Sequence[str] | str, what: str, *, fix: str = "", limit_s: float = COMMAND_S) -> str:
        """What a command printed there.

        Raises:
            RemoteError: ``what``, where it failed, with its last words.
        """
        done = self.run(words, limit_s=limit_s)
        if done.code:
            raise failed(what, done, fix)
        return done.out

    def put(self, local: Path, remote: str) -> None:
        """Copy a file there; what arrived before a connection dropped is not sent again, and a file that is there already not at all.

        Raises:
            RemoteError: No room there, or what arrived is not what was sent.
        """
        digest, part = sha256_file(local), f"{remote}.part"
        if self.digest(remote) == digest:
            return

        def send() -> Done:
            have = self._once(f"stat -Lc %s {shlex.quote(part)} 2>/dev/null || echo 0")
            if have.code:
                return have
            with local.open("rb") as file:
                begin = int(have.out)
                file.seek(begin if begin <= local.stat().st_size else 0)
                redirect = ">>" if begin <= local.stat().st_size else ">"
                return self._once(f"cat {redirect} {shlex.quote(part)}", stdin=file, limit_s=TRANSFER_S)

        done = self._tried(send)
        if done.code:
            raise failed(f"'{local.name}' ({show_size(local.stat().st_size)}) could not be copied to {self.address}.", done)
        if self.digest(part) != digest:
            self.run(["rm", "-f", part])
            raise RemoteError(f"'{local.name}' arrived damaged at {self.address}.", fix="run the same command again.")
        self.check(["mv", part, remote], f"'{remote}' could not be written.")

    def get(self, remote: str, local: Path) -> None:
        """Copy a file here.

        Raises:
            RemoteError: It is not there, or arrived damaged.
        """
        part = local.with_name(f"{local.name}.part")

        def fetch() -> Done:
            have = part.stat().st_size if part.exists() else 0
            with part.open("ab") as file:
                return self._once(f"tail -c +{have + 1} {shlex.quote(remote)}", stdout=file, limit_s=TRANSFER_S)

        part.unlink(missing_ok=True)
        done = self._tried(fetch)
        if done.code or sha256_file(part) != self.digest(remote):
            part.unlink(missing_ok=True)
            raise failed(f"'{remote}' could not be fetched from {self.address}.", done)
        part.replace(local)

    def digest(self, remote: str) -> str:
        """SHA-256 of a file there; "" where there is none."""
        words = self.run(f"sha256sum {shlex.quote(remote)} 2>/dev/null").out.split()
        return words[0].lstrip("\\") if words else ""

    def free_bytes(self, remote: str) -> int | None:
        """Room on the disk of a folder there; None where that cannot be told."""
        rows = self.run(["df", "-Pk", remote]).out.splitlines()
        words = rows[-1].split() if rows else []
        return int(words[3]) * 1024 if len(words) > 3 and words[3].isdigit() else None

    def _tried(self, attempt: Callable[[], Done]) -> Done:
        """The attempt's result; while the connection drops, and once there was one, it is made again for ``patience_s``."""
        end, pause = time.monotonic() + self._patience_s, FIRST_PAUSE_S
        lost, crowded = False, 0
        while True:
            done = attempt()
            if done.code != LOST:
                self._met = True
                if self._is_another() and not lost:
                    self.losses += 1
                    self._note(f"the connection to {self.address.host} was lost; trying again.")
                    lost = True
                if lost:
                    self._note(f"the connection to {self.address.host} is back.")
                return done
            refusal = refused(done.err, self.address)
            if not refusal and not self._met and crowded < CROWDED_TRIES and any(words in done.err for words in CROWDED):
                crowded += 1
                time.sleep(pause * (1 + random.random()))  # those that were refused together do not come back together
                continue
            if refusal or not self._met or time.monotonic() > end:
                raise refusal or unreachable(done.err, self.address)
            if not lost:
                self.losses += 1
                self._note(f"the connection to {self.address.host} was lost; trying again.")
            lost = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _is_another(self) -> bool:
        """Whether the kept connection is not the one of the last command."""
        stat = self.control.stat() if self.control.exists() else None
        before, self._socket = self._socket, (stat.st_ino, stat.st_mtime_ns) if stat else None  # inodes are given out again at once
        return before is not None and self._socket is not None and before != self._socket

    def _once(self, line: str, *, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None, limit_s: float = COMMAND_S) -> Done:
        """One try. What ssh says goes to a file: a pipe would stay open as long as the kept connection."""
        command = [*self._ssh, str(self.address), "--", f"LC_ALL=C; export LC_ALL; {line}"]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                code = subprocess.run(
                    command, stdin=stdin or subprocess.DEVNULL, stdout=stdout or out, stderr=err, timeout=limit_s, check=False
                ).returncode
            except subprocess.TimeoutExpired as late:
                raise RemoteError(f"{self.address} did not answer within {limit_s:.0f} s.", why=f"it was asked: {line[:80]}") from late
            for file in (out, err):
                file.seek(0)
            return Done(code, out.read().decode(errors="replace"), err.read().decode(errors="replace"))


def failed(what: str, done: Done, fix: str = "") -> RemoteError:
    """The error of a command that failed there: its last words, and what to do about a full disk."""
    words = " ".join((done.err.strip() or done.out.strip()).splitlines()[-3:]) or f"exit code {done.code}."
    if "No space left on device" in words:
        fix = "its disk is full: make room there, or set EDGEMM_REMOTE there to a folder on a larger disk."
    return RemoteError(what, why=words, fix=fix)


def refused(words: str, address: SshAddress) -> RemoteError | None:
    """The error of a connection that trying again does not help."""
    scan_arguments = f"{'-p ' + str(address.port) + ' ' if address.port else ''}{address.host}"
    name = f"'[{address.host}]:{address.port}'" if address.port not in (None, 22) else address.host
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in words:
        return RemoteError(
            f"the host key of {address.host} is not the one known here.",
            why="it was set up anew, or somebody else answers in its place.",
            fix=f"if it was set up anew: ssh-keygen -R {name}, then make its new key known.",
        )
    if "Host key verification failed" in words or "host key is known" in words:
        return RemoteError(
            f"the host key of {address.host} is not known here.",
            why="connecting to an unknown machine would trust whoever answers.",
            fix=f"ssh-keyscan {scan_arguments} >> ~/.ssh/known_hosts, and compare it with "
            "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there.",
        )
    if "Permission denied" in words:
        return RemoteError(
            f"{address} does not let us in.",
            why=words.strip().splitlines()[-1],
            fix=f"copy your key there: ssh-copy-id {'-p ' + str(address.port) + ' ' if address.port else ''}{address}",
        )
    return None


def unreachable(words: str, address: SshAddress) -> RemoteError:
    """The error of a machine that does not answer."""
    last = (words.strip().splitlines() or ["ssh said nothing."])[-1]
    return RemoteError(
        f"{address} cannot be reached.", why=last, fix="check that it is on, its address and its port; ssh must work by hand."
    )
