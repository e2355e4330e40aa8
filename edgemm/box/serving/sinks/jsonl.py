"""A file of JSON lines: events, and decisions where asked for; bounded in size."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from edgemm.contracts.decision import Decision, Tracked
from edgemm.contracts.sink import Event, Sink, decision_dict, track_dict
from edgemm.errors import RunError

PLACES = ("*.jsonl",)
WRITES = "path"
MIB = 1 << 20


class Jsonl(Sink):
    """Appends to a file; at ``most_mib`` the file becomes ``<name>.1`` and a new one begins."""

    def __init__(self, *, path: str, decisions: bool = False, tracks: bool = False, most_mib: float = 32.0) -> None:
        """
        Args:
            path: The file.
            decisions: Also write every decision, with all scores.
            tracks: Also write news of what is followed: that it is new, in another zone, surer or called otherwise, or has ended.
            most_mib: Size at which a new file begins; one old file is kept.

        Raises:
            RunError: The place cannot be written.
        """
        self._path, self._decisions, self._tracks, self._most = Path(path), decisions, tracks, most_mib * MIB
        self._file: BinaryIO | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as err:
            raise RunError(f"cannot write '{path}'.", why=f"{err.strerror}.", fix="choose another path for jsonl.") from err

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"path": place}

    def decision(self, decision: Decision) -> None:
        if self._decisions:
            self._write({"type": "decision", **decision_dict(decision)})

    def event(self, event: Event) -> None:
        self._write({"type": "event", **event.to_dict()})

    def tracked(self, news: Tracked, voted: tuple[str, ...]) -> None:
        if self._tracks:
            about = {"kind": news.kind, "output": news.after.output, "voted": list(voted)}
            self._write({"type": "track", **about, **track_dict(news.after)})

    def stop(self) -> None:
        if self._file:
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is None:  # the last line did not fit on the disk
            self._open()
        assert self._file is not None
        begin = self._file.tell()
        if begin > self._most:
            self._file.close()
            os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
            self._open()
            begin = 0
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError:  # a full disk; what stays in the buffer would be tried again for ever
            broken, self._file = self._file, None
            with suppress(OSError):
                broken.close()
            with suppress(OSError):
                os.truncate(self._path, begin)  # the half line that did fit would spoil the next one
            raise

    def _open(self) -> None:
        self._file = self._path.open("ab")
