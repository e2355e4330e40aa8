"""A vector to compare with others: retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgemm.contracts.decision import Observation
from edgemm.contracts.task import Arrays, Entity, OutputName, Statistics, Task
from edgemm.data.scoring import Metric, RowScores, SignalToNoise

SIMILARITY_ROWS = 1024  # rows of the similarity matrix held at a time: 40 MB for 10,000 candidates
TIE = 1e-6  # cosines closer than float32's rounding are one and the same
FURTHER = (5, 10)
METRIC = {"recall_at_1": "Recall@1"}


@dataclass(frozen=True)
class Embedding(Task):
    """Vectors (n, d). With a ``pair`` the rows of two outputs belong together, and recall@1 is guarded; without one nothing is.

    Attributes:
        pair: The output whose vectors these are matched with.
    """

    has_truth: ClassVar[bool] = False

    pair: OutputName | None = None

    @property
    def is_scored(self) -> bool:
        return self.pair is not None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.name, self.pair) if self.pair else (self.name,)

    def agrees(self, answers: Mapping[str, tuple[int, ...]], truth: tuple[int, ...] | None) -> bool:
        if self.pair is None:
            return answers[self.name] == truth
        return len({int(np.prod(shape[1:])) for shape in answers.values()}) == 1

    def statistics(self, answers: Arrays, truth: np.ndarray | None) -> Statistics:
        """Recall@1: where k candidates tie with a row's own, it is found by chance, and counts 1/k.

        Counting ties as lost would punish data that says one thing twice, counting them as found would give a collapsed embedding, all of
        whose vectors are one, full marks; so it gets 1/n, which is what guessing gets.
        """
        if self.pair is None:
            assert truth is not None
            return SignalToNoise(of=self.name, reference=truth, other=answers[self.name])
        return RowScores(metric=Metric("recall_at_1"), rows=_found(answers[self.name], answers[self.pair], 1), is_share=True)

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        if self.pair is None:
            return {}
        return {f"recall_at_{most}": float(_found(answers[self.name], answers[self.pair], most).mean()) for most in FURTHER}

    def read(self, answers: Arrays) -> Observation | None:
        """Cosine of the angle between the two vectors of a pair."""
        if self.pair is None:
            return None
        ours, theirs = (np.ravel(answers[name]).astype(np.float64) for name in (self.name, self.pair))
        return Observation(value=float(ours @ theirs) / max(float(np.linalg.norm(ours) * np.linalg.norm(theirs)), 1e-12))

    def entities(self) -> Sequence[Entity]:
        return [Entity("value", "number")] if self.pair else []


def _found(queries: np.ndarray, candidates: np.ndarray, most: int) -> np.ndarray:
    """For each row the chance that its own partner is among the ``most`` nearest by cosine, those that tie in random order."""
    queries, candidates = _unit(queries), _unit(candidates)
    chances = np.empty(len(queries))
    for start in range(0, len(queries), SIMILARITY_ROWS):
        cosine = queries[start : start + SIMILARITY_ROWS] @ candidates.T
        own = cosine[np.arange(len(cosine)), start + np.arange(len(cosine))][:, None]
        nearer = (cosine > own + TIE).sum(axis=1)
        ties = (cosine >= own - TIE).sum(axis=1) - nearer
        chances[start : start + len(cosine)] = np.clip((most - nearer) / ties, 0.0, 1.0)
    return chances


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.reshape(len(vectors), -1).astype(np.float32)
    units: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units
