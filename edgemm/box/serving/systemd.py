"""A run under systemd: a unit that is not root, its files read-only, and the heartbeat by whose silence systemd knows that it hangs."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemm.box.serving.settings import Settings
from edgemm.contracts import plugins
from edgemm.errors import RunError
from edgemm.store.artifact import write_bytes

SYSTEM, OWN = Path("/etc/systemd/system"), Path(".config/systemd/user")
WATCHDOG_S = 8  # found within that, started again a second later: within 10 s
UNIT = """\
[Unit]
Description=edgemm run: {name}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
EnvironmentFile=-{secrets}
Environment=EDGEMM_CACHE=%C/edgemm PYTHONUNBUFFERED=1
WatchdogSec={watchdog}
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2 3
TimeoutStopSec=15
MemoryMax=1G
{user}
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
{writable}
[Install]
WantedBy={target}
"""
ROOT_USER = """\
DynamicUser=yes
SupplementaryGroups=video audio
CacheDirectory=edgemm
StateDirectory=edgemm
CapabilityBoundingSet="""
OWN_USER = "CacheDirectory=edgemm"


def unit(arguments: Sequence[str], settings: Settings, *, is_root: bool, folder: Path | None = None) -> str:
    """The unit's text.

    Args:
        arguments: Of ``edgemm run``; paths in them are absolute.
        folder: Where relative paths in the settings start.

    Raises:
        RunError: An argument cannot be written into a unit.
    """
    if any("\n" in word for word in arguments):
        raise RunError("an argument holds a line break.", fix="rename the file.")
    words = [sys.executable, "-m", "edgemm", "run", *arguments]
    places = sorted({str(Path(path).absolute()) for path in _written(settings)})
    return UNIT.format(
        name=settings.name,
        command=" ".join(_quoted(word) for word in words),
        folder=folder or Path.cwd(),
        secrets=f"/etc/edgemm/{settings.name}.env" if is_root else f"%h/.config/edgemm/{settings.name}.env",
        watchdog=WATCHDOG_S,
        user=ROOT_USER if is_root else OWN_USER,
        writable=f"ReadWritePaths={' '.join(_quoted(path) for path in places)}\n" if places else "",
        target="multi-user.target" if is_root else "default.target",
    )


@dataclass(frozen=True)
class Installed:
    """A unit that was written."""

    path: Path
    is_root: bool

    def to_dict(self) -> dict[str, str]:
        return {"unit": str(self.path)}

    def __str__(self) -> str:
        systemctl = "systemctl" if self.is_root else "systemctl --user"
        return f"wrote {self.path}\nnext: {systemctl} daemon-reload && {systemctl} enable --now {self.path.stem}"


def install(arguments: Sequence[str], settings: Settings, *, place: Path | None = None) -> Installed:
    """Write the unit where systemd looks for it: the system's for root, else the user's own.

    Raises:
        OutputError: The place cannot be written.
    """
    is_root = os.geteuid() == 0
    place = place or (SYSTEM if is_root else Path.home() / OWN)
    path = place / f"edgemm-{settings.name}.service"
    write_bytes(path, unit(arguments, settings, is_root=is_root).encode())
    return Installed(path, is_root)


class SystemdNotifier:
    """Tells whoever started this run, by the socket that ``NOTIFY_SOCKET`` names, that it is ready, alive, ending. No socket: nobody.

    Source: sd_notify(3), "Notes": datagrams of ``KEY=value`` lines on an AF_UNIX socket, ``@`` for the abstract namespace.
    """

    def __init__(self, address: str | None = None) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        self._is_ready = False

    def beat(self) -> None:
        """The loop is alive; the first time: it is ready."""
        self._send("WATCHDOG=1" if self._is_ready else "READY=1\nWATCHDOG=1")
        self._is_ready = True

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def close(self) -> None:
        if self._socket:
            self._socket.close()

    def _send(self, text: str) -> None:
        if self._socket:
            try:
                self._socket.sendto(text.encode(), self._address)
            except OSError:
                return  # whoever listened is gone; the box serves on


def _written(settings: Settings) -> list[str]:
    """Folders that the run writes to."""
    written = [part.options.get(plugins.constant("sinks", part.kind, "WRITES")) for part in settings.sinks]
    files = [str(Path(str(file)).parent) for file in written if file]
    return files + ([settings.drift.save] if settings.drift and settings.drift.save else [])


def _quoted(word: str) -> str:
    """One word of a command, as systemd reads it: percent signs and dollars mean something there."""
    return shlex.quote(word).replace("%", "%%").replace("$", "$$")
