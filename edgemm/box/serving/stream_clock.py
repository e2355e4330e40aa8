"""A stream's own time brought onto the box's monotonic clock, how far the two clocks drift apart, and jumps of the stream's clock."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from edgemm.contracts.source import Item

SPAN_S = 10.0  # of one bucket
BUCKETS = 30  # five minutes are enough to see 10 ppm (3 ms) through the jitter of a network
PPM = 1e6
JUMP_S = 5.0  # between two items of one input, beyond what went by on the box: no burst does that, somebody set the clock
BACK_S = 0.5  # of a recording, whose items come in order: what runs back by more was recorded after the clock was set
LATE_S = 60.0  # a recording that begins later than this counts from when somebody else began; there is nothing to wait for
STEP_S = 0.02  # after a jump a recording goes on so much later


class Timeline:
    """Maps stream seconds to monotonic seconds.

    A packet can be late but never early, so the smallest distance between arrival and stream time is the true one. The first packets of
    a connection come in a burst, older than they look; the minimum forgives that. It is taken over the newest bucket and the one before,
    so that it follows a camera whose clock runs slow.
    """

    def __init__(self) -> None:
        self._lows: deque[tuple[float, float]] = deque(maxlen=BUCKETS)  # (start of a bucket on the monotonic clock, smallest distance)
        self._newest: dict[str, tuple[float, float]] = {}  # input -> its last item on the stream's clock, and when it arrived

    def reset(self) -> None:
        """Forget everything: the stream begins anew, with another zero."""
        self._lows.clear()

    def has_jumped(self, item: Item, arrived_s: float) -> bool:
        """Whether the stream's clock was set since the last item of this input, back or ahead. Call once for every item."""
        stream_s, before_s = self._newest.get(item.input, (item.time_s, arrived_s))
        self._newest[item.input] = item.time_s, arrived_s
        return not -JUMP_S <= item.time_s - stream_s <= arrived_s - before_s + JUMP_S

    def place(self, stream_s: float, arrived_s: float) -> float:
        """When, on the monotonic clock, what the stream dates ``stream_s`` happened; never later than ``arrived_s``."""
        distance = arrived_s - stream_s
        if not self._lows or arrived_s - self._lows[-1][0] >= SPAN_S:
            self._lows.append((arrived_s, distance))
        elif distance < self._lows[-1][1]:
            self._lows[-1] = (self._lows[-1][0], distance)
        return stream_s + min(low for _, low in list(self._lows)[-2:])

    def drift_ppm(self) -> float | None:
        """How much slower (positive) or faster the stream's clock runs than the box's; None before two full buckets."""
        if len(self._lows) < 3:
            return None
        (begin_s, first), (end_s, last) = self._lows[0], self._lows[-2]
        return (last - first) / (end_s - begin_s) * PPM


class Recorded:
    """A recording's own times made to start at 0 and never to run back; each jump is a hole in the data of its input.

    Args:
        longest_s: Holes longer than this are closed too: nobody waits an hour for a file whose clock was set.
    """

    def __init__(self, longest_s: float = float("inf")) -> None:
        self._longest_s = longest_s
        self._shift_s: dict[str, float] = {}
        self._last_s: dict[str, float] = {}

    def placed(self, item: Item) -> Item:
        name = item.input
        if name not in self._shift_s:
            begin_s = 0.0 if 0 <= item.time_s <= LATE_S else -item.time_s
            self._shift_s[name] = next(iter(self._shift_s.values()), begin_s)
        at_s = item.time_s + self._shift_s[name]
        last_s = self._last_s.get(name, at_s)
        jumped = not -BACK_S <= at_s - last_s <= self._longest_s
        if jumped:
            at_s = last_s + STEP_S
            self._shift_s[name] = at_s - item.time_s
        self._last_s[name] = at_s
        return replace(item, time_s=at_s, discontinuity=item.discontinuity or jumped)
