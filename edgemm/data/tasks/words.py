"""One of several words that a model was never trained on: how near a picture or sound is to what each of them says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgemm.contracts.task import Arrays, OutputName
from edgemm.data import scoring
from edgemm.data.one_label import OneLabel

SHARED = ("data/labelled.py", "Labelled")
METRIC = {"accuracy": "Accuracy"}
FURTHER = (3, 5)


@dataclass(frozen=True)
class Words(OneLabel):
    """Logits (n, words), truth int64 (n,): cosines by the model's own scale and bias. Guarded: zero-shot accuracy.

    Attributes:
        each: Every word is judged by itself (SigLIP), not against the others: its score is a sigmoid, no softmax.
        vector: The output whose vector the words are held against, where ``run`` shall take other words: the text tower then goes along.
    """

    each: bool = False
    vector: OutputName | None = None

    @property
    def takes_one_logit(self) -> bool:
        return False

    def further(self, answers: Arrays, truth: np.ndarray | None) -> Mapping[str, float]:
        """How often the right word is among the first few; the mean over words of the average precision of its score."""
        assert truth is not None
        logits = answers[self.name].reshape(-1, answers[self.name].shape[-1])
        true = truth.reshape(-1)
        nearer = (logits > logits[np.arange(len(true)), true][:, None]).sum(axis=1)
        recalls = {f"recall_at_{most}": float((nearer < most).mean()) for most in FURTHER if most < logits.shape[1]}
        shares = self.shares(logits.astype(np.float64))
        precisions = [scoring.average_precision(shares[:, word], true == word) for word in range(logits.shape[1])]
        return {**recalls, "mean_average_precision": scoring.mean_of_known(precisions)}

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Softmax, or with ``each`` a sigmoid of each."""
        if self.each:
            single: np.ndarray = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
            return single
        return super().shares(logits)
