"""A stream's own time brought onto the box's monotonic clock, and how far the two clocks drift apart."""

from __future__ import annotations

from collections import deque

SPAN_S = 10.0  # of one bucket
BUCKETS = 30  # five minutes are enough to see 10 ppm (3 ms) through the jitter of a network
PPM = 1e6


class Timeline:
    """Maps stream seconds to monotonic seconds.

    A packet can be late but never early, so the smallest distance between arrival and stream time is the true one. The first packets of
    a connection come in a burst, older than they look; the minimum forgives that. It is taken over the newest bucket and the one before,
    so that it follows a camera whose clock runs slow.
    """

    def __init__(self) -> None:
        self._lows: deque[tuple[float, float]] = deque(maxlen=BUCKETS)  # (start of a bucket on the monotonic clock, smallest distance)

    def reset(self) -> None:
        """Forget everything: the stream begins anew, with another zero."""
        self._lows.clear()

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
