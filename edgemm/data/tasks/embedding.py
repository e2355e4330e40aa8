"""A vector to compare with others: retrieval."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Cells, Entity, OutputName, Statistics, Task
from edgemm.data import labels
from edgemm.data.scoring import Metric, RowScores, SignalToNoise
from edgemm.errors import CardError

SIMILARITY_ROWS = 1024  # rows of the similarity matrix held at a time: 40 MB for 10,000 candidates
TIE = 1e-6  # cosines closer than float32's rounding are one and the same
FURTHER = (5, 10)
METRIC = {"recall_at_1": "Recall@1"}


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors (n, d). With a ``pair`` the rows of two outputs belong together, and recall@1 is guarded; without one nothing is.

    Attributes:
        pair: The output whose vectors these are matched with.
        named: A column tells who or what each row shows, and every row of that name is as good an answer as the row's own partner. Truth
            int64 (n,): a number for a name, of no order.
    """

    pair: OutputName | None = None
    named: bool = False

    def __post_init__(self) -> None:
        if self.named and self.pair is None:
            raise CardError(
                "'named' without a 'pair'.",
                why="rows of one name are found by the vectors of another output.",
                fix="write pair: <other output>; a gallery of one output has its names in `edgemm index`.",
            )

    @property
    def has_truth(self) -> bool:
        return self.named

    @property
    def is_scored(self) -> bool:
        return self.pair is not None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.name, self.pair) if self.pair else (self.name,)

    def truth(self, cell: Any, row: Cells) -> np.ndarray:
        if labels.is_empty(cell):
            raise labels.empty()
        return np.asarray(zlib.crc32(str(cell).strip().encode()), np.int64)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        if self.pair is None:
            return answers[self.name] == truth
        if truth is not None and len(truth) != 1:
            return False
        return len({int(np.prod(shape[1:])) for shape in answers.values()}) == 1

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        """Recall@1: where k candidates tie with the right one, it is found by chance, and counts 1/k.

        Counting ties as lost would punish data that says one thing twice, counting them as found would give a collapsed embedding, all of
        whose vectors are one, full marks; so it gets 1/n, which is what guessing gets.
        """
        if self.pair is None:
            assert truth is not None
            return SignalToNoise(of=self.name, reference=truth, other=answers[self.name])
        return RowScores(metric=Metric("recall_at_1"), rows=self._found(answers, truth, 1), is_share=True)

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        if self.pair is None:
            return {}
        return {f"recall_at_{most}": float(self._found(answers, truth, most).mean()) for most in FURTHER}

    def read(self, answers: Arrays) -> Observation | None:
        """Cosine of the angle between the two vectors of a pair."""
        if self.pair is None:
            return None
        ours, theirs = (np.ravel(answers[name]).astype(np.float64) for name in (self.name, self.pair))
        return Observation(value=float(ours @ theirs) / max(float(np.linalg.norm(ours) * np.linalg.norm(theirs)), 1e-12))

    def _found(self, answers: Arrays, truth: np.ndarray | None, most: int) -> np.ndarray:
        """For each row the chance that one of the right rows of the pair is among the ``most`` nearest."""
        names = np.arange(len(answers[self.name])) if truth is None else truth
        return _found(answers[self.name], answers[str(self.pair)], names, most)

    def entities(self) -> Sequence[Entity]:
        return [Entity("value", "number")] if self.pair else []


def _found(queries: np.ndarray, candidates: np.ndarray, names: np.ndarray, most: int) -> np.ndarray:
    """For each row the chance that a candidate of its name is among the ``most`` nearest by cosine, those that tie in random order."""
    queries, candidates = _unit(queries), _unit(candidates)
    chances = np.empty(len(queries))
    for start in range(0, len(queries), SIMILARITY_ROWS):
        rows = slice(start, start + SIMILARITY_ROWS)
        cosine, right = queries[rows] @ candidates.T, names[rows, None] == names
        best = np.where(right, cosine, -np.inf).max(axis=1, keepdims=True)
        nearer = (cosine > best + TIE).sum(axis=1)
        ties = cosine >= best - TIE
        rights, all_ties = (ties & right).sum(axis=1), ties.sum(axis=1) - nearer
        chances[rows] = 1 - _all_wrong(all_ties - rights, all_ties, np.clip(most - nearer, 0, all_ties))
    return chances


def _all_wrong(wrong: np.ndarray, of: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The chance that all that are drawn are among the wrong ones, int (n,) each."""
    chance = np.ones(len(of))
    for before in range(int(drawn.max())):
        share = np.maximum(wrong - before, 0) / np.maximum(of - before, 1)
        chance *= np.where(before < drawn, share, 1.0)
    return chance


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.reshape(len(vectors), -1).astype(np.float32)
    units: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units
