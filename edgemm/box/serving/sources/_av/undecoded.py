"""Pictures that nobody is about to look at: kept as packets, and decoded when somebody does after all.

A camera sends most pictures as what changed since the one before, so that to see one takes all since the last whole one (the key frame).
Where a gate keeps the picture's branch from running nobody looks, and when the next key frame comes what was not decoded never need be.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import av

TRIED = 10  # packets that must each give their own picture at once before any may wait
MOST_WAITING = 60  # packets; looking at a picture then takes a tenth of a second, not more, on streams with few key frames
LONGEST = 300  # packets of a group that are kept, so that a picture of it can still be seen after the next has begun


@dataclass(eq=False)
class _Group:
    """Packets from a key frame on, and the pictures that wait among them.

    Attributes:
        begins: The first is a key frame, so that decoding can start here.
    """

    begins: bool
    packets: list[Any] = field(default_factory=list)
    waiting: dict[int, weakref.ref[Undecoded]] = field(default_factory=dict)


class Undecoded:
    """One picture that waits."""

    def __init__(self, decoder: PictureDecoder, group: _Group, place: int) -> None:
        self.group, self.place = group, place
        self.picture: av.VideoFrame | None = None
        self._decoder = decoder

    def decoded(self) -> av.VideoFrame:
        """The picture; where its packets are broken the last one that was whole, as players show it."""
        return self._decoder.picture_of(self)

    def cost(self) -> int:
        """Pictures that must be decoded for it."""
        return self._decoder.cost_of(self)


class PictureDecoder:
    """Decodes one picture track, each packet at once or only when its picture is looked at. Safe to use from several threads.

    A packet may wait where each gives its own picture at once, which is tried on the first ones: not where pictures are sent in another
    order than they are shown (B-frames).
    """

    def __init__(self, context: Any) -> None:
        self._context, self._lock = context, threading.Lock()
        self._newest = self._at = _Group(begins=False)
        self._next = 0  # of ``_at``, to decode
        self._tried, self._is_straight = 0, True
        self._last: av.VideoFrame | None = None

    def may_wait(self, packet: Any) -> bool:
        """Whether this packet, the next one, may be put off."""
        if not self._is_straight or self._tried < TRIED or packet.pts is None or not packet.size:
            return False
        return bool(packet.is_keyframe) or self._count_waiting() < MOST_WAITING

    def put_off(self, packet: Any) -> Undecoded:
        """Keep a packet; its picture is decoded when it is asked for."""
        with self._lock:
            self._add(packet)
            undecoded = Undecoded(self, self._newest, len(self._newest.packets) - 1)
            self._newest.waiting[undecoded.place] = weakref.ref(undecoded)
            return undecoded

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        """The pictures of a packet, after those that it builds upon.

        Raises:
            av.error.InvalidDataError: It is broken.
        """
        if not packet.size and self._is_straight and self._tried >= TRIED:
            return []  # the end, and there is no picture to come
        with self._lock:
            self._add(packet)
            self._turn_to(self._newest)
            while self._next < len(self._newest.packets) - 1:
                self._decode_next()
            pictures = self._decode_next()
            is_own = len(pictures) == 1 and pictures[0].pts == packet.pts
            self._is_straight = self._is_straight and (is_own or not packet.size)
            self._tried += 1
            return pictures

    def picture_of(self, undecoded: Undecoded) -> av.VideoFrame:
        """What ``Undecoded.decoded`` gives."""
        with self._lock:
            if undecoded.picture is None:
                self._reach(undecoded)
            undecoded.picture = undecoded.picture or self._last
            assert undecoded.picture is not None  # TRIED of them came before any waits
            return undecoded.picture

    def cost_of(self, undecoded: Undecoded) -> int:
        """What ``Undecoded.cost`` gives."""
        with self._lock:
            if undecoded.picture is not None:
                return 0
            goes_on = undecoded.group is self._at and self._next <= undecoded.place
            return undecoded.place + 1 - (self._next if goes_on else 0)

    def _reach(self, undecoded: Undecoded) -> None:
        if not self._turn_to(undecoded.group, undecoded.place):
            return
        try:
            while self._next <= undecoded.place:
                self._decode_next()
        except av.error.FFmpegError:
            self._is_straight = False  # from now on each is decoded at once, where errors are counted

    def _add(self, packet: Any) -> None:
        """Put a packet where it belongs; a key frame begins a group, and so does what follows a long one."""
        is_decoded = self._at is self._newest and self._next == len(self._newest.packets)
        if packet.is_keyframe or (len(self._newest.packets) >= LONGEST and is_decoded):
            self._newest = _Group(begins=bool(packet.is_keyframe))
            if is_decoded:  # goes on without a gap
                self._at, self._next = self._newest, 0
        self._newest.packets.append(packet)

    def _turn_to(self, group: _Group, place: int | None = None) -> bool:
        """Let the next packet be one of ``group``, no later than ``place``; False where that cannot be."""
        if group is self._at and (place is None or self._next <= place):
            return True
        if not group.begins:
            return False
        self._context.flush_buffers()
        self._at, self._next = group, 0
        return True

    def _decode_next(self) -> list[av.VideoFrame]:
        place = self._next
        self._next += 1
        pictures: list[av.VideoFrame] = self._context.decode(self._at.packets[place])
        if pictures:
            self._last = pictures[-1]
            waits = self._at.waiting.pop(place, None)
            if waits is not None and (undecoded := waits()) is not None:
                undecoded.picture = pictures[-1]
        return pictures

    def _count_waiting(self) -> int:
        return len(self._newest.packets) - (self._next if self._at is self._newest else 0)
