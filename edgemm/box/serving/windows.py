"""The newest of every input, held until its branch wants it: bounded, the newest wins, no window reaches over a gap."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.card import Card
from edgemm.contracts.decision import Sample
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.source import Item
from edgemm.contracts.stream import Numbers, Pictures
from edgemm.contracts.stream import Sound as SoundStream
from edgemm.errors import RunError

PICTURES_KEPT = 8  # half a second at 15 a second: as far as sound may lag behind and still find its picture; 11 MB of 720p
GAP_S = 0.2  # sound that is this much later than its predecessor ended has a hole; a network's jitter moves no sample
ALIGN_S = 0.15  # pictures this much newer than the newest sound are not held back: a sound track comes in pieces of up to 0.1 s


class Window:
    """One input's newest data.

    Attributes:
        taken: How many samples were made.
        passed_over: Pictures, texts or measurements that a newer one replaced before a branch wanted them.
        gaps: How often the data had a hole.
        begun_s: When the data after the last hole began; what was computed of older data is no longer used.
    """

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self.taken = self.passed_over = self.gaps = 0
        self.newest_s: float | None = None
        self.arrived_s, self.begun_s = 0.0, float("-inf")

    def cut(self, at_s: float) -> None:
        """Forget what is held: from ``at_s`` on everything is new."""
        if self.newest_s is not None:
            self.gaps += 1
            self.begun_s = at_s
        self.clear()

    def offer(self, item: Item, arrived_s: float) -> None:
        self._keep(item, arrived_s)
        self.newest_s, self.arrived_s = item.time_s, arrived_s

    def take(self, until_s: float) -> Sample | None:
        """The newest sample that ends at ``until_s`` or before it (or the oldest kept); None while there is none."""
        raise NotImplementedError

    @property
    def is_full(self) -> bool:
        """Whether enough came, since the last hole, for a sample."""
        raise NotImplementedError

    def frame(self, until_s: float) -> Any:
        """The picture that ``take`` would make a sample of, as it came; None where it is no picture, or there is none."""
        return None

    def clear(self) -> None:
        """Forget what is held: there is a gap."""
        raise NotImplementedError

    def _keep(self, item: Item, arrived_s: float) -> None:
        raise NotImplementedError


class Newest(Window):
    """Pictures, texts and whole measurements: the last few, each a sample of its own."""

    def __init__(self, modality: Modality, kept: int = 1) -> None:
        super().__init__(modality)
        self._held: deque[tuple[Item, float]] = deque(maxlen=kept)
        self._used_s: float | None = None

    def take(self, until_s: float) -> Sample | None:
        if not self._held:
            return None
        item, arrived_s = self._newest(until_s)
        array = self.modality.received(item.value)
        self.taken += 1
        self._used_s = item.time_s
        return Sample(array[None], item.time_s, arrived_s, self._frame_of(item))

    @property
    def is_full(self) -> bool:
        return bool(self._held)

    def frame(self, until_s: float) -> Any:
        return self._frame_of(self._newest(until_s)[0]) if self._held else None

    def _newest(self, until_s: float) -> tuple[Item, float]:
        return next((held for held in reversed(self._held) if held[0].time_s <= until_s), self._held[0])

    def _frame_of(self, item: Item) -> Any:
        return item.value if isinstance(self.modality.stream(), Pictures) else None

    def clear(self) -> None:
        self._held.clear()

    def _keep(self, item: Item, arrived_s: float) -> None:
        if len(self._held) == self._held.maxlen and (self._used_s is None or self._held[0][0].time_s > self._used_s):
            self.passed_over += 1
        self._held.append((item, arrived_s))


class Sound(Window):
    """The last ``seconds`` of sound, sample by sample, up to the last whole hop."""

    def __init__(self, modality: Modality, stream: SoundStream) -> None:
        super().__init__(modality)
        self._samples, self._rate_hz, self._hop = stream.samples, stream.rate_hz, stream.hop
        self._ring = np.zeros(self._samples + self._hop - 1, np.float32)
        self._filled = self._heard = 0
        self._end_s = 0.0  # of the newest sample of all; ``newest_s`` is the end of the newest window

    def offer(self, item: Item, arrived_s: float) -> None:
        super().offer(item, arrived_s)
        self._end_s = item.time_s
        self.newest_s = item.time_s - self._surplus() / self._rate_hz

    def take(self, until_s: float) -> Sample | None:
        if not self.is_full or self.newest_s is None:
            return None
        self.taken += 1
        end = len(self._ring) - self._surplus()
        position = self._heard - self._surplus() - self._samples
        return Sample(self._ring[None, end - self._samples : end].copy(), self.newest_s, self.arrived_s, position=position)

    @property
    def is_full(self) -> bool:
        return self._filled >= self._samples

    def clear(self) -> None:
        self._filled = 0
        self._heard += self._samples + -(self._heard + self._samples) % self._hop  # no window shares a place with one before the gap

    def _surplus(self) -> int:
        """Samples behind the newest window; 0 until there is one."""
        return (self._heard - self._samples) % self._hop if self.is_full else 0

    def level_dbfs(self) -> float | None:
        """Loudness of the last tenth of a second: 0 = as loud as it goes; None while there is no sound."""
        if not self._filled:
            return None
        piece = self._ring[-min(self._filled, self._rate_hz // 10) :]
        return float(10 * np.log10(np.mean(piece * piece) + 1e-10))

    def _keep(self, item: Item, arrived_s: float) -> None:
        pcm = np.asarray(item.value, np.float32)
        if self.newest_s is not None and self._filled and item.time_s - len(pcm) / self._rate_hz - self._end_s > GAP_S:
            self.cut(item.time_s - len(pcm) / self._rate_hz)
        self._heard += len(pcm)
        self._filled = min(len(self._ring), self._filled + len(pcm))
        pcm = pcm[-len(self._ring) :]
        if len(pcm):
            self._ring = np.concatenate([self._ring[len(pcm) :], pcm])


class Moments(Window):
    """A window of measurements that come moment by moment."""

    def __init__(self, modality: Modality, shape: tuple[int, ...]) -> None:
        super().__init__(modality)
        self._shape = shape
        self._rows: deque[np.ndarray] = deque(maxlen=self._shape[0])

    def take(self, until_s: float) -> Sample | None:
        if not self.is_full or self.newest_s is None:
            return None
        self.taken += 1
        return Sample(self.modality.decode(np.stack(list(self._rows)), Path())[None], self.newest_s, self.arrived_s)

    @property
    def is_full(self) -> bool:
        return len(self._rows) == self._shape[0]

    def clear(self) -> None:
        self._rows.clear()

    def _keep(self, item: Item, arrived_s: float) -> None:
        value = np.asarray(item.value, np.float32)
        if value.shape == self._shape:
            self._rows.extend(value)
        elif value.shape == self._shape[1:]:
            self._rows.append(value)
        else:
            raise RunError(
                f"a measurement for '{item.input}' has shape {value.shape}.",
                why=f"the model wants {self._shape}.",
                fix=f"send one moment {self._shape[1:]} or a whole window {self._shape}.",
            )


class Steps(Window):
    """The last ``steps`` samples of another window, for a model that takes several at once."""

    def __init__(self, inner: Window, steps: int) -> None:
        super().__init__(inner.modality)
        self._inner, self._steps, self._last = inner, steps, deque[np.ndarray](maxlen=steps)
        self._position = -steps  # of the samples kept, in steps

    def cut(self, at_s: float) -> None:
        self._inner.cut(at_s)
        self._follow()

    def offer(self, item: Item, arrived_s: float) -> None:
        self._inner.offer(item, arrived_s)
        self.newest_s, self.arrived_s = self._inner.newest_s, self._inner.arrived_s
        self.passed_over = self._inner.passed_over
        self._follow()

    def take(self, until_s: float) -> Sample | None:
        one = self._inner.take(until_s)
        if one is None:
            return None
        self._last.append(one.array[0])
        self._position += 1
        if len(self._last) < self._steps:
            return None
        self.taken += 1
        return Sample(np.stack(list(self._last))[None], one.time_s, one.arrived_s, one.frame, self._position)

    @property
    def is_full(self) -> bool:
        return self._inner.is_full  # the steps before it are gathered by taking them

    def frame(self, until_s: float) -> Any:
        return self._inner.frame(until_s)

    def clear(self) -> None:
        self._last.clear()
        self._position += self._steps
        self._inner.clear()

    def _follow(self) -> None:
        """A gap of the inner window, which it may find by itself, is one of the steps."""
        if self.gaps != self._inner.gaps:
            self.gaps, self.begun_s = self._inner.gaps, self._inner.begun_s
            self._last.clear()
            self._position += self._steps


class Windows:
    """The windows of all inputs that have a source; safe to use from several threads.

    Args:
        together: Inputs that come from one source: a hole in one is a hole in all of them.
    """

    def __init__(self, card: Card, inputs: list[str], together: Iterable[Iterable[str]] = ()) -> None:
        own = modalities(card)
        self._each: dict[str, Window] = {name: _window(own[name], card.inputs[name].steps) for name in inputs}
        self._together = {name: tuple(group) for group in map(tuple, together) for name in group}
        self._lock = threading.Lock()
        self.arrived = threading.Condition(self._lock)

    def offer(self, item: Item, arrived_s: float) -> None:
        """Put an item where it belongs; wakes whoever waits on ``arrived``."""
        with self.arrived:
            if item.discontinuity:
                for name in self._together.get(item.input, (item.input,)):
                    self._each[name].cut(item.time_s)
            self._each[item.input].offer(item, arrived_s)
            self.arrived.notify_all()

    def newest_s(self, name: str) -> float | None:
        """When the newest item of an input ends; None while nothing came."""
        return self._each[name].newest_s if name in self._each else None

    def sample_s(self, name: str) -> float | None:
        """When the newest sample of an input ends; None while there is none: a window of sound or measurements has to fill first."""
        return self.newest_s(name) if name in self._each and self._each[name].is_full else None

    def inputs(self) -> list[str]:
        """Inputs that have a source."""
        return list(self._each)

    def begun_s(self, name: str) -> float:
        """When the data of an input after its last hole began."""
        return self._each[name].begun_s if name in self._each else float("-inf")

    def take(self, name: str, until_s: float) -> Sample | None:
        with self._lock:
            return self._each[name].take(until_s)

    def frame(self, name: str, until_s: float) -> Any:
        """The newest picture of an input, as it came; None where there is none."""
        with self._lock:
            return self._each[name].frame(until_s) if name in self._each else None

    def horizon_s(self, stale_s: Mapping[str, float], now: float) -> float:
        """Until when samples may reach so that all inputs that are there reach as far: the oldest of their newest, and a little more."""
        newest = [at for name, window in self._each.items() if (at := window.newest_s) is not None and now - at <= stale_s[name]]
        return min(newest) + ALIGN_S if newest else now

    def level_dbfs(self) -> float | None:
        """Loudness of the first sound input."""
        with self._lock:
            return next((window.level_dbfs() for window in self._each.values() if isinstance(window, Sound)), None)

    def counts(self) -> dict[str, dict[str, int]]:
        """Input -> samples taken, items passed over, gaps."""
        return {name: {"taken": w.taken, "passed_over": w.passed_over, "gaps": w.gaps} for name, w in self._each.items()}


def _window(modality: Modality, steps: int | None) -> Window:
    window: Window
    match modality.stream():
        case SoundStream() as stream:
            window = Sound(modality, stream)
        case Pictures():
            window = Newest(modality, PICTURES_KEPT)
        case Numbers(window=shape) if shape is not None:
            window = Moments(modality, shape)
        case _:
            window = Newest(modality)
    return Steps(window, steps) if steps else window
