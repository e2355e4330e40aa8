"""A thread for each source: it reads, paces recordings, brings times onto the monotonic clock, and connects again after a loss."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgemm.box.serving.stream_clock import Recorded, Timeline
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source
from edgemm.contracts.stream import Sound
from edgemm.errors import EdgemmError, RunError
from edgemm.redaction import redact

RATE_SPAN = 50  # items over which a source's rate is told
RATE_OLD_S = 5.0  # without an item for so long the rate is 0
LONGEST_WAIT_S = 10.0  # between two items of a recording that is played at its own pace


@dataclass(frozen=True)
class Patience:
    """When a source is taken for lost, and how it is tried again.

    Attributes:
        no_data_s: Without an item for so long, a connected live and steady source is closed and opened again.
        skew_s: Pictures and sound of one source further apart than this, for ``no_data_s``: likewise.
        first_s, most_s: Waiting before the first and any later try; it doubles, and is drawn between half and all of it.
        healthy_s: A source that delivered for so long is tried at once again.
    """

    no_data_s: float = 10.0
    skew_s: float = 2.0
    first_s: float = 1.0
    most_s: float = 30.0
    healthy_s: float = 30.0


def whole(
    source: Source,
    wants: Mapping[str, Modality],
    *,
    longest_wait_s: float = float("inf"),
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Item]:
    """What a source delivers; of a recording the inputs that got nothing are noted, and its times start at 0 and do not run back.

    Args:
        longest_wait_s: A recording's times do not jump ahead by more.

    Raises:
        RunError: As ``Source.items``; or a recording held nothing at all for any input.
    """
    fed, recorded = Counter[str](), Recorded(longest_wait_s)
    for item in source.items(wants):
        fed[item.input] += len(item.value) if isinstance(item.value, np.ndarray) else 1
        yield item if source.live else recorded.placed(item)
    if source.live or is_stopped():
        return
    for name, modality in wants.items():
        sound = modality.stream()
        if isinstance(sound, Sound) and 0 < fed[name] < sound.samples:
            _note(source, sound.shortage(fed[name], source.describe(), name))
    empty = [name for name in source.inputs if name not in fed]
    if empty:
        what = f"{source.describe()} holds nothing for {', '.join(empty)}"
        if len(empty) == len(source.inputs):
            raise RunError(
                f"{what}.", why="; ".join(source.notes) or "nothing in it could be read.", fix="give these inputs another source."
            )
        _note(source, what)


def _note(source: Source, what: str) -> None:
    if what not in source.notes:
        source.notes.append(what)


class Feeder:
    """Runs one source in a thread of its own.

    Attributes:
        state: ``starting``, ``up``, ``down`` (waiting for the next try), ``ended`` (a recording is over).
        error: Why it is down, in words without secrets.
        reconnects: How often it was opened again.
        losses: How often it went down.
        came: It delivered something, or, where silence is no loss, was connected.
        failure: What a recording ended with before its end.
    """

    def __init__(
        self,
        source: Source,
        wants: Mapping[str, Modality],
        take: Callable[[Item, float], None],
        *,
        patience: Patience | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            take: Gets every item, with its time on the monotonic clock, and when it arrived; must return soon.
        """
        self.source, self._wants, self._take, self._patience, self._now = source, wants, take, patience or Patience(), now
        self.state, self.error, self.reconnects, self.received, self.losses = "starting", "", 0, 0, 0
        self.failure: EdgemmError | None = None
        self.came = False
        self.timeline = Timeline()
        self.last_s = now()
        self._skewed_since: float | None = None
        self._newest: dict[str, float] = {}
        self._arrivals: deque[float] = deque(maxlen=RATE_SPAN)  # of its first input's items
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source {source.describe()}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon and may still hang in a read until that times out."""
        self._stop.set()
        self.source.close()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def skew_s(self) -> float:
        """How far the newest items of its inputs are apart."""
        return max(self._newest.values()) - min(self._newest.values()) if len(self._newest) > 1 else 0.0

    def rate_hz(self) -> float:
        """How many items of its first input come a second: a camera's pictures."""
        times = list(self._arrivals)
        if len(times) < 2 or self._now() - times[-1] > RATE_OLD_S:
            return 0.0
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9)

    def watch(self) -> str:
        """Close a live source that hangs or whose tracks have come apart; says why, or "" where all is well. Call once a second."""
        now = self._now()
        if not self.source.steady and self.source.connected:
            self.state, self.error, self.came = "up", "", True
        if not self.source.live or self.state != "up":
            return ""
        if self.source.steady and now - self.last_s > self._patience.no_data_s:
            return self._drop(f"no data for {now - self.last_s:.0f} s")
        if self.skew_s() <= self._patience.skew_s:
            self._skewed_since = None
        elif self._skewed_since is None:
            self._skewed_since = now
        elif now - self._skewed_since > self._patience.no_data_s:
            return self._drop(f"picture and sound are {self.skew_s():.1f} s apart")
        return ""

    def _drop(self, why: str) -> str:
        self.error, self.last_s, self._skewed_since = why, self._now(), None
        self.source.close()
        return f"{self.source.describe()}: {why}; connecting again"

    def _run(self) -> None:
        wait_s = self._patience.first_s
        while not self._stop.is_set():
            began = self._now()
            try:
                self._connect()
                if not self.source.live and not self._stop.is_set() and not getattr(self.source, "loop", False):
                    self.state = "ended"
                    return
            except Exception as err:  # whatever a library raises: the thread must not die, nor print an address with its password
                words = f"{err.what} {err.why}".strip() if isinstance(err, EdgemmError) else f"{type(err).__name__}: {err}"
                self.error = redact(words).replace(f"'{self.source.describe()}' ", "")  # whoever tells it names the source
                if not self.source.live:
                    stop = "mend the file, or give another."
                    self.failure = err if isinstance(err, EdgemmError) else RunError(redact(words), why="reading it failed.", fix=stop)
                    self.state = "ended"
                    return
            if self._stop.is_set() or not self.source.live:
                continue
            self.losses += self.state != "down"
            self.state = "down"
            if self._now() - began > self._patience.healthy_s:
                wait_s = self._patience.first_s
            self._stop.wait(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(self._patience.most_s, wait_s * 2)
            self.reconnects += 1

    def _connect(self) -> None:
        """Read one connection, or one round of a recording, to its end."""
        self.timeline.reset()
        self._newest.clear()
        self._arrivals.clear()
        begin, first = self._now(), True
        for item in whole(self.source, self._wants, longest_wait_s=LONGEST_WAIT_S, is_stopped=self._stop.is_set):
            if self._stop.is_set():
                return
            if not self.source.live and self._stop.wait(max(0.0, begin + item.time_s - self._now())):
                return
            self._deliver(item, begin, first)
            first = False
        if not self.source.live:
            self._stop.wait(max(0.0, begin + getattr(self.source, "length_s", 0.0) - self._now()))

    def _deliver(self, item: Item, begin: float, first: bool) -> None:
        """Hand one item on; the first of a connection says that something is missing before it."""
        now = self._now()
        if self.source.live and self.timeline.has_jumped(item, now):
            item = replace(item, discontinuity=True)
        if item.discontinuity:
            self.timeline.reset()
        at_s = self.timeline.place(item.time_s, now) if self.source.live else begin + item.time_s
        self.state, self.last_s, self.received, self.came = "up", now, self.received + 1, True
        if first:
            self.error = ""
        self._newest[item.input] = at_s
        if item.input == self.source.inputs[0]:
            self._arrivals.append(now)
        self._take(replace(item, time_s=at_s, discontinuity=item.discontinuity or first), now)
