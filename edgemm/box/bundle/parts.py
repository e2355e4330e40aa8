"""A model's split graphs as files, and running them: every branch by itself, then the rest, with stand-ins for what is missing.

Runs on the box. ``standins.in_parts`` writes such a folder; a bundle holds it as ``split/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgemm.contracts.target import Session
from edgemm.errors import BundleError
from edgemm.store import json_text

RECORD, FRAMEWISE = "split.json", "framewise.json"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FramewiseFiles:
    """Where the two parts of a branch lie whose frames may be kept, and how frames stand in its input: see ``edgemm.graph.framewise``."""

    block: Path
    rest: Path | None
    frames: int
    hop: int
    window: int
    pad: int
    at_once: int
    axis: int


@dataclass(frozen=True)
class SplitFiles:
    """Where the parts lie.

    Attributes:
        branches: Input -> the graph from it (and its mask) to its cut tensors. An input that the rest reads as it is has none.
        rest: Cut tensors (and inputs without a branch) -> outputs.
        cuts: Input -> names of the tensors that stand for it in ``rest``; never empty.
        macs: Multiply-accumulates of all parts together, for one sample.
        framewise: Input -> its branch once more, in two parts, so that what was made of a stream's frames can be kept.
        never_kept: Input -> why it is not among them, where it might have been.
    """

    branches: Mapping[str, Path]
    rest: Path
    cuts: Mapping[str, Sequence[str]]
    macs: int = 0
    framewise: Mapping[str, FramewiseFiles] = field(default_factory=dict)
    never_kept: Mapping[str, str] = field(default_factory=dict)

    def paths(self) -> set[Path]:
        """Every part."""
        more = {path for files in self.framewise.values() for path in (files.block, files.rest) if path}
        return {*self.branches.values(), self.rest, *more}

    @property
    def inputs(self) -> list[str]:
        """The inputs that can be missing, in the model's order."""
        return list(self.cuts)


def read(folder: Path) -> SplitFiles:
    """What ``split.json`` of a folder lists.

    Raises:
        BundleError: It is missing, or not edgemm's.
    """
    try:
        plain = json_text.loads((folder / RECORD).read_bytes())
        branches = {str(name): folder / file for name, file in plain["branches"].items()}
        cuts = {str(name): tuple(tensors) for name, tensors in plain["cuts"].items()}
        framewise = json_text.loads((folder / FRAMEWISE).read_bytes()) if (folder / FRAMEWISE).is_file() else {"inputs": {}, "whole": {}}
        kept = {str(name): _framewise(folder, entry) for name, entry in framewise["inputs"].items()}
        return SplitFiles(branches, folder / plain["rest"], cuts, int(plain["macs"]), kept, dict(framewise["whole"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(f"{folder / RECORD} cannot be read.", why=str(err), fix="pack the bundle again.") from err


def _framewise(folder: Path, entry: Mapping[str, Any]) -> FramewiseFiles:
    numbers = {key: int(entry[key]) for key in ("frames", "hop", "window", "pad", "at_once", "axis")}
    if min(numbers["hop"], numbers["at_once"]) < 1 or min(numbers.values()) < 0 or numbers["at_once"] > numbers["frames"]:
        raise ValueError(f"frames cannot stand so: {numbers}")
    return FramewiseFiles(folder / entry["block"], folder / entry["rest"] if entry["rest"] else None, **numbers)


class Parts:
    """The opened parts of one model. A context manager; not for use by two threads at once.

    Args:
        files: Where they lie.
        open_part: Opens one of them on a target, such as ``lambda path: target.open(path, **options)``.
    """

    def __init__(self, files: SplitFiles, open_part: Callable[[Path], Session]) -> None:
        self.cuts = files.cuts
        with ExitStack() as stack:
            self._branches = {name: stack.enter_context(open_part(path)) for name, path in files.branches.items()}
            self._rest = stack.enter_context(open_part(files.rest))
            self._stack = stack.pop_all()
        self._wanted = {name: [spec.name for spec in session.inputs] for name, session in self._branches.items()}
        self._rest_wanted = [spec.name for spec in self._rest.inputs]

    def embed(self, name: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """What one input's branch makes of it: its cut tensors.

        Args:
            inputs: The model's inputs by name; those of this branch are read.
        """
        feed = self.branch_feed(name, inputs)
        return self._branches[name].run(feed) if name in self._branches else {cut: np.asarray(array) for cut, array in feed.items()}

    def branch_feed(self, name: str, inputs: Arrays) -> dict[str, np.ndarray]:
        """Those of ``inputs`` that one input's branch reads."""
        return _feed(inputs, self._wanted.get(name, self.cuts[name]))

    def answer(self, present: Mapping[str, Arrays], standins: Arrays, others: Arrays) -> dict[str, np.ndarray]:
        """The model's outputs.

        Args:
            present: Input -> its cut tensors, as ``embed`` gave them, newest or older.
            standins: Cut tensor -> what replaces it where its input is not ``present``; of the same shape.
            others: Inputs that belong to no branch: states and constants.
        """
        return self.rest(self.rest_feed(present, standins, others))

    def rest_feed(self, present: Mapping[str, Arrays], standins: Arrays, others: Arrays) -> dict[str, np.ndarray]:
        """What the rest reads; arguments as in ``answer``."""
        feed = {**others, **standins}
        for cuts in present.values():
            feed.update(cuts)
        return _feed(feed, self._rest_wanted)

    def rest(self, feed: Arrays) -> dict[str, np.ndarray]:
        """The model's outputs, of a ``rest_feed``."""
        return self._rest.run(feed)

    def precision(self) -> str:
        """What really ran, over all parts."""
        words = {word for session in (*self._branches.values(), self._rest) for word in session.precision().split("+")}
        return "+".join(word for word in ("int8", "w8", "w4", "bf16", "f16", "f32", "f64") if word in words) or "f32"

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _feed(arrays: Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of ``arrays`` that a part reads.

    Raises:
        BundleError: One is not there.
    """
    try:
        return {name: arrays[name] for name in names}
    except KeyError as err:
        why = f"a part reads {err}, and neither an input nor another part is called so."
        raise BundleError("the split graphs of this bundle do not fit together.", why=why, fix="pack the bundle again.") from err
