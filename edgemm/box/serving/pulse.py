"""The heartbeat of a running box, in systemd's words: whoever started it learns when it is ready, and when it hangs."""

from __future__ import annotations

import os
import socket


class Pulse:
    """Sends to the socket that ``NOTIFY_SOCKET`` names; to nobody where there is none.

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
