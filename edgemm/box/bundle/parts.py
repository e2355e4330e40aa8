"""A model's split graphs as files, and running them: every branch by itself, then the rest, with stand-ins for what is missing.

Runs on the box. ``standins.in_parts`` writes such a folder; a bundle holds it as ``split/``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from edgemm.contracts.target import Session
from edgemm.errors import BundleError

RECORD = "split.json"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SplitFiles:
    """Where the parts lie.

    Attributes:
        branches: Input -> the graph from it (and its mask) to its cut tensors. An input that the rest reads as it is has none.
        rest: Cut tensors (and inputs without a branch) -> outputs.
        cuts: Input -> names of the tensors that stand for it in ``rest``; never empty.
        macs: Multiply-accumulates of all parts together, for one sample.
    """

    branches: Mapping[str, Path]
    rest: Path
    cuts: Mapping[str, Sequence[str]]
    macs: int = 0

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
        plain = json.loads((folder / RECORD).read_bytes())
        branches = {str(name): folder / file for name, file in plain["branches"].items()}
        cuts = {str(name): tuple(tensors) for name, tensors in plain["cuts"].items()}
        return SplitFiles(branches, folder / plain["rest"], cuts, int(plain["macs"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise BundleError(f"{folder / RECORD} cannot be read.", why=str(err), fix="pack the bundle again.") from err


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
        if name not in self._branches:
            return {cut: np.asarray(inputs[cut]) for cut in self.cuts[name]}
        return self._branches[name].run({key: inputs[key] for key in self._wanted[name]})

    def answer(self, present: Mapping[str, Arrays], standins: Arrays, others: Arrays) -> dict[str, np.ndarray]:
        """The model's outputs.

        Args:
            present: Input -> its cut tensors, as ``embed`` gave them, newest or older.
            standins: Cut tensor -> what replaces it where its input is not ``present``; of the same shape.
            others: Inputs that belong to no branch: states and constants.
        """
        feed = {**others, **standins}
        for cuts in present.values():
            feed.update(cuts)
        return self._rest.run({name: feed[name] for name in self._rest_wanted})

    def precision(self) -> str:
        """What really ran, over all parts."""
        words = {word for session in (*self._branches.values(), self._rest) for word in session.precision().split("+")}
        return "+".join(word for word in ("int8", "bf16", "f16", "f32", "f64") if word in words) or "f32"

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
