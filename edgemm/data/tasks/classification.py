"""One label out of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.judged_parts import LabelJudged, Reliability
from edgemm.contracts.task import Arrays
from edgemm.data import judged as judging
from edgemm.data import scoring
from edgemm.data.one_label import OneLabel

SHARED = ("data/labelled.py", "Labelled")
METRIC = {"accuracy": "Accuracy"}


@dataclass(frozen=True)
class Classification(OneLabel):
    """Logits (n, labels), truth int64 (n,); ``per_step`` puts T after n. Guarded: accuracy."""

    @property
    def takes_one_logit(self) -> bool:
        return True

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """Macro averages: precision, recall and f1 over the labels that occur anywhere, auroc over those that some rows have, not all."""
        assert truth is not None
        logits = answers[self.name].reshape(-1, answers[self.name].shape[-1])
        right, answered, there = scoring.hits(logits.argmax(axis=1), truth.reshape(-1), logits.shape[1])
        shares = self.shares(logits.astype(np.float64))
        areas = [scoring.area_under_roc(shares[:, label], truth.reshape(-1) == label) for label in range(logits.shape[1])]
        occurs = answered + there > 0
        macro = scoring.precision_recall_f1(right[occurs], answered[occurs], there[occurs])
        labels, known = self.judged(answers, truth)
        return {**macro, "auroc": scoring.mean_of_known(areas), **judging.macro(labels), "ece": known.ece}

    def judged(self, answers: Arrays, truth: np.ndarray) -> tuple[Sequence[LabelJudged], Reliability]:
        logits = answers[self.name].reshape(-1, answers[self.name].shape[-1])
        return judging.judge("classification", self.labels, logits, self.shares(logits.astype(np.float64)), truth.reshape(-1))
