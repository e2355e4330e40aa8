"""What was made of the frames of a stream, kept: of a new window only new frames are computed, the rest of the branch reads all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemm.box.bundle.golden import difference
from edgemm.box.bundle.parts import FramewiseFiles
from edgemm.contracts import onnx_file
from edgemm.contracts.target import Session

EQUAL, LAST_SUMS = 1e-5, 1e-6
"""How far, as a share of its largest value, a tensor may be off that is the same but for the order of sums. Where integers are made of what
differs, one in a thousand windows would round to another one: there nothing may differ, but for the last sums, which nobody rounds."""
SMALL = 1e-6  # a tensor whose values are all smaller is held against this
WINDOWS, SECONDS = 8, 0.3  # of a trial: windows at least, unless it takes longer than so many seconds
WORTH = 0.9  # of the processor time without kept frames, and less: then they are kept
OTHERS_BYTES = 16 << 20  # written between two timed calls: in a run decoded pictures take the processor's caches meanwhile


class Frames:
    """One input's branch, opened in its two parts. Not for use by two threads at once.

    Attributes:
        computed, kept: Of the frames of all windows, how many were computed, and how many had been before.
    """

    def __init__(self, files: FramewiseFiles, open_part: Callable[[Path], Session]) -> None:
        self.files = files
        with ExitStack() as stack:
            self._block = stack.enter_context(open_part(files.block))
            self._rest = stack.enter_context(open_part(files.rest)) if files.rest else None
            self._stack = stack.pop_all()
        self._edge = -(-files.pad // files.hop)  # so many first frames read mirrored samples, and are of this window alone
        self._between = -(-files.window // files.hop) - 1  # frames across the seam, where what is behind the edge follows it at once
        self._frames: np.ndarray | None = None
        self._position = self._asked = 0
        quantized = [onnx_file.read(path).is_quantized for path in (files.block, files.rest) if path]
        self.allowed = EQUAL if not any(quantized) else 0.0 if files.rest else LAST_SUMS
        self.computed = self.kept = 0

    def is_worth(self, position: int) -> bool:
        """Whether windows follow each other so closely that half of the frames are kept or more. Ask once a window."""
        step, self._asked = position - self._asked, position
        return self._frames is None or 2 * step <= self.files.frames * self.files.hop

    def embed(self, window: np.ndarray, position: int) -> dict[str, np.ndarray]:
        """What the branch makes of a window.

        Args:
            window: (1, samples, ...) of sound, or (1, steps, ...).
            position: Where in its stream it begins.
        """
        files, last = self.files, self._frames
        padded = np.pad(window, ((0, 0), (files.pad, files.pad)), mode="reflect") if files.pad else window
        moved, rest = divmod(position - self._position, files.hop)
        lead = self._edge + self._between if self._edge else 0
        inside = min(files.frames, (files.pad + window.shape[1] - files.window) // files.hop + 1)  # from there on frames are mirrored
        stop = min(inside - moved, files.frames - (files.at_once - lead))  # from there on they are new, or fill the last block
        if last is None or rest or moved < 0 or stop <= self._edge:
            frames = self._made(padded, files.frames)
        else:
            samples = np.concatenate([padded[:, : lead * files.hop], padded[:, stop * files.hop :]], axis=1)
            made = self._made(samples, lead + files.frames - stop)
            parts = [self._cut(made, 0, self._edge), self._cut(last, self._edge + moved, stop + moved), self._cut(made, lead, None)]
            frames = np.concatenate(parts, axis=files.axis)
            self.kept += stop - self._edge
        self._frames, self._position = frames, position
        if self._rest is None:
            return {self._block.outputs[0].name: frames}
        return self._rest.run({self._rest.inputs[0].name: frames})

    def forget(self) -> None:
        """Begin anew: nothing is kept or counted."""
        self._frames = None
        self.computed = self.kept = 0

    def close(self) -> None:
        self._stack.close()

    def _made(self, samples: np.ndarray, count: int) -> np.ndarray:
        """The first ``count`` frames of ``samples``, block by block; the last block may reach back over frames of the one before."""
        files, blocks = self.files, []
        self.computed += -(-count // files.at_once) * files.at_once
        for begin in range(0, count, files.at_once):
            start = min(begin, count - files.at_once)
            read = samples[:, start * files.hop : (start + files.at_once - 1) * files.hop + files.window]
            (block,) = self._block.run({self._block.inputs[0].name: read}).values()
            blocks.append(self._cut(block, begin - start, None))
        return np.concatenate(blocks, axis=files.axis)

    def _cut(self, frames: np.ndarray, begin: int, end: int | None) -> np.ndarray:
        return frames[(slice(None),) * self.files.axis + (slice(begin, end),)]


@dataclass(frozen=True)
class Trial:
    """A branch with kept frames beside the branch as a whole, on the same windows.

    Attributes:
        off: The largest difference of a tensor, as a share of its largest value; ``allowed``: how large it may be.
        whole_ms, kept_ms: Processor time of the fastest call of each.
    """

    off: float
    allowed: float
    whole_ms: float
    kept_ms: float

    @property
    def objection(self) -> str:
        """Why frames are better not kept; "" where they may be."""
        if self.off > self.allowed:
            return f"with frames kept it gives something else: off by {self.off:.1e}"
        faster = self.kept_ms <= WORTH * self.whole_ms
        return "" if faster else f"that takes {self.kept_ms:.2f} ms of processor time instead of {self.whole_ms:.2f}"


def trial(frames: Frames, whole: Callable[[np.ndarray], Mapping[str, np.ndarray]], rows: np.ndarray, step: int) -> Trial:
    """Let both make the windows of a stream.

    Args:
        rows: Real samples (n, ...): one after the other, again and again, they are the stream.
        step: Frames between two windows.
    """
    stream, length = rows.reshape(1, -1, *rows.shape[2:]), rows.shape[1]
    off, position, began = 0.0, 0, time.monotonic()
    whole_ms: list[float] = []
    kept_ms: list[float] = []
    others = np.zeros(OTHERS_BYTES, np.uint8)
    while len(kept_ms) <= WINDOWS and (len(kept_ms) < 3 or time.monotonic() - began < SECONDS):
        window = np.take(stream, range(position, position + length), axis=1, mode="wrap")
        answers = []
        for times, make in ((whole_ms, whole), (kept_ms, lambda w, at=position: frames.embed(w, at))):
            others += 1
            start = time.process_time()
            answers.append(make(window))
            times.append(1000 * (time.process_time() - start))
        gaps = [
            difference(answers[1][name], value) / max(float(np.abs(value).max(initial=0.0)), SMALL) for name, value in answers[0].items()
        ]
        off, position = max([off, *gaps]), position + step * frames.files.hop
    return Trial(off, frames.allowed, min(whole_ms[1:]), min(kept_ms[1:]))
