"""Events that wait for somebody who is away: in order, bounded in number and in time, each with its id."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Letter:
    """One event on its way."""

    id: str
    place: str
    content: bytes
    expires_s: float


class Outbox:
    """What was not yet confirmed. Safe to use from several threads.

    Attributes:
        expired, overflowed: Letters given up because their time was over, or because too many waited.
    """

    def __init__(self, ttl_s: float, *, most: int = 1000, now: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s, self._most, self._now = ttl_s, most, now
        self._letters: OrderedDict[str, Letter] = OrderedDict()
        self._lock = threading.Lock()
        self.expired = self.overflowed = 0

    def put(self, id: str, place: str, content: bytes) -> None:
        """Take a letter in; where too many wait the oldest is given up."""
        with self._lock:
            self._letters[id] = Letter(id, place, content, self._now() + self._ttl_s)
            while len(self._letters) > self._most:
                self._letters.popitem(last=False)
                self.overflowed += 1

    def waiting(self) -> list[Letter]:
        """What is to be sent, oldest first; letters whose time is over are dropped here."""
        with self._lock:
            now = self._now()
            over = [id for id, letter in self._letters.items() if letter.expires_s <= now]
            for id in over:
                del self._letters[id]
            self.expired += len(over)
            return list(self._letters.values())

    def done(self, id: str) -> None:
        """The other side has confirmed it."""
        with self._lock:
            self._letters.pop(id, None)

    def __len__(self) -> int:
        return len(self._letters)
