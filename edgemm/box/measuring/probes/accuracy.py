"""Answers against the truth, on the target itself; memory does not grow with the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.measuring.answers import AnswerFiles, score
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement

WATCHES = "rows"


class Accuracy(Probe):
    """Writes answers and truths while the rows stream by, as ``answers.AnswerFiles`` does.

    Args:
        folder: Where to; must exist. Needed in the worker alone.
    """

    def __init__(self, *, folder: Path | None = None) -> None:
        self._folder = folder
        self._files: AnswerFiles | None = None

    def start(self) -> None:
        assert self._folder is not None
        self._files = AnswerFiles(self._folder)

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        assert self._files is not None
        self._files.append(answers, truth)

    def stop(self) -> list[str]:
        """Names of the files written."""
        assert self._files is not None
        return self._files.close()

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        """Each labelled output's metric and, where the original's answers are known, what was lost. ``samples``: ``score``'s arguments."""
        return [measurement for outputs, answers, before in samples for measurement in score(outputs, answers, before)]
