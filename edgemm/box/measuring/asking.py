"""One form of a model, asked about one row again and again: with inputs left out, and with one input in other versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import numpy as np

from edgemm.box.bundle.deployment import ServedBundle
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.batching import ROWS, Batching
from edgemm.contracts.joint import subsets
from edgemm.data.shares import MOST_INPUTS

Arrays = Mapping[str, np.ndarray]


class Asked:
    """A model that answers about a row. A context manager.

    Args:
        served: The model, in parts where it has them: then only the branch of the input that differs runs anew.

    Attributes:
        calls: How many samples it answered.
        precision: What ran, as ``Session.precision`` says.
    """

    def __init__(self, served: ServedBundle) -> None:
        self.calls = 0
        self._standins = served.standins
        with ExitStack() as stack:
            in_parts = served.split is not None and served.standins is not None
            self._parts = stack.enter_context(Parts(served.split, served.open_part)) if served.split is not None and in_parts else None
            self._whole = None if self._parts else stack.enter_context(served.whole.open())
            self.precision = (self._parts or self._whole).precision()  # type: ignore[union-attr]  # one of them is there
            self._stack = stack.pop_all()

    def subsets(self, inputs: Arrays, there: Sequence[str], free: Sequence[str]) -> dict[tuple[str, ...], Arrays]:
        """The answer of all inputs that are there, and where the model can be asked so that of each subset of those that may be missing.

        It can where it is in parts, they are at most ``MOST_INPUTS``, and each has a stand-in.

        Args:
            there: Inputs of this row, with those that nobody sends.
            free: Those of ``there`` that may be missing.
        """
        if self._parts is None:
            self.calls += 1
            return {tuple(free): self._whole.run(inputs)}  # type: ignore[union-attr]  # the one without parts
        parts, replaced = self._parts, self._standins or {}
        embedded = {name: parts.embed(name, inputs) for name in there if name in parts.cuts}
        replaceable = all({*parts.cuts[name]} <= {*replaced} for name in free if name in parts.cuts)
        asked = subsets(free) if len(free) <= MOST_INPUTS and replaceable else [tuple(free)]
        self.calls += len(asked)
        left_out = {subset: {*free} - {*subset} for subset in asked}
        return {
            subset: parts.answer({name: cuts for name, cuts in embedded.items() if name not in left_out[subset]}, replaced, inputs)
            for subset in asked
        }

    def variants(self, inputs: Arrays, there: Sequence[str], name: str, samples: Iterable[np.ndarray], count: int) -> list[Arrays]:
        """The answers to one input in other versions, the others as they are.

        Args:
            count: Of ``samples``.
        """
        if self._parts is None or name not in self._parts.cuts:
            session = self._whole if self._parts is None else None
            run = session.run if session is not None else partial(self._in_parts, inputs, there)
            return self._batched(run, [{**inputs, name: sample} for sample in samples], count)
        parts, replaced = self._parts, self._standins or {}
        kept = {other: parts.embed(other, inputs) for other in there if other in parts.cuts and other != name}
        feeds = [parts.branch_feed(name, {**inputs, name: sample}) for sample in samples]
        cuts = self._batched(partial(parts.embed, name), feeds, count)
        self.calls -= count  # the branch and the rest are one answer
        return self._batched(parts.rest, [parts.rest_feed({**kept, name: cut}, replaced, inputs) for cut in cuts], count)

    def _in_parts(self, inputs: Arrays, there: Sequence[str], feed: Arrays) -> Arrays:
        """Of an input that belongs to no branch."""
        assert self._parts is not None  # ``variants`` has looked
        embedded = {name: self._parts.embed(name, {**inputs, **feed}) for name in there if name in self._parts.cuts}
        return self._parts.answer(embedded, self._standins or {}, {**inputs, **feed})

    def _batched(self, run: Callable[[Arrays], Arrays], feeds: Sequence[Arrays], count: int) -> list[Arrays]:
        """Several a call where that answers the same and is faster."""
        batching = Batching(run, rows=count, precision=self.precision)
        self.calls += len(feeds)
        return [answer for start in range(0, len(feeds), ROWS) for answer in batching.answers(feeds[start : start + ROWS])]

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
