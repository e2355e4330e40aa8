"""A real sshd on a free port of this machine, with keys of its own; nothing of the user's is read or written."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


class Sshd:
    """Runs until ``stop()``.

    Args:
        folder: Empty; keys, configuration and the home of jobs go there.
        variables: Environment of the sessions.

    Attributes:
        url: For ``--remote``.
        config: For ``--ssh-config``: knows this server's key.
        jobs: Where jobs lie.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder, self.jobs = folder, folder / "jobs"
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        device = folder / "device"  # the lock of this one; servers that are one machine are given one
        sets = {"HOME": str(folder), "EDGEMM_REMOTE": str(self.jobs), "EDGEMM_DEVICE_LOCK": str(device), **variables}
        # a home of its own: no .bashrc changes the PATH
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/authorized",
            f"PidFile {folder}/pid", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no",
            "MaxStartups 50", f"SetEnv {' '.join(f'{key}={value}' for key, value in sets.items())}",
        ]  # fmt: skip
        (folder / "sshd_config").write_text("\n".join([*lines, ""]))
        self.config = self.write_config("config", known=True)
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        """Answer, at first or again."""
        self._log = (self._folder / "sshd.log").open("ab")
        self._process = subprocess.Popen([program(), "-D", "-e", "-f", self._folder / "sshd_config"], stderr=self._log)
        self._wait()

    def write_config(self, name: str, *, known: bool, key: str = "user") -> Path:
        """A client's configuration; ``known``: with this server's key."""
        hosts = self._folder / f"known-{name}"
        public = (self._folder / "host.pub").read_text()
        hosts.write_text(f"[127.0.0.1]:{self.port} {public}" if known else "")
        place = self._folder / name
        options = {"IdentityFile": self._folder / key, "IdentitiesOnly": "yes", "UserKnownHostsFile": hosts, "GlobalKnownHostsFile": "none"}
        place.write_text("Host *\n" + "".join(f"  {name} {value}\n" for name, value in options.items()))
        return place

    def drop(self) -> int:
        """Cut every open connection; returns how many there were."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        return len(children)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        for _ in range(100):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self._folder / "sshd.log").read_text())


def program() -> str | None:
    """sshd, which is on no user's PATH."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
