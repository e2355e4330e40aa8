"""A model's answers with some of its inputs missing: each branch runs once a row, the rest once a row and subset.

The scheduler's half (``answer_subsets``) and the worker's half (``run_subsets``), which runs in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.answers import AnswerFiles, read_files
from edgemm.box.measuring.batching import Batching, in_sets
from edgemm.box.measuring.candidate import Candidate
from edgemm.box.measuring.embedding import Embedding
from edgemm.box.measuring.predict import Predictor
from edgemm.box.measuring.rows import Rows
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.target import Session

TELL_S = 0.5  # how often progress is told


def answer_subsets(
    predictor: Predictor,
    candidate: Candidate,
    standins: Path,
    data: str,
    card: Card,
    subsets: Sequence[Sequence[str]],
    *,
    rows: int,
    split: str = "test",
    seed: int = 0,
    skip_bad_rows: bool = False,
    limit_s: float = 600.0,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Answers], str]:
    """Run a split through the parts of a model, in the process of their target, as if one row at a time.

    Args:
        predictor: Whose process, and rows.
        candidate: Its model is the ``split.json`` of the parts.
        standins: ``standins.npz``.
        subsets: Which inputs are there, for each answer wanted; the others, and those a row lacks, are replaced.
        rows: At most so many; of a larger split a choice by ``seed``, the same for every candidate.

    Returns:
        The answers to each subset, the truth beside the first alone; the precision that ran. Arrays are memory-mapped, read-only.

    Raises:
        EdgemmError: What the worker raised; MeasureError when it crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="edgemm-") as scratch, predictor.worker(candidate) as worker:
        answer = worker.ask(
            "subsets", limit_s=limit_s, progress=progress, **candidate.opening(None), folder=str(candidate.model.parent.resolve()),
            standins=str(standins.resolve()), data=data, card=card.to_dict(), card_path=str(card.path) if card.path else None,
            subsets=[list(subset) for subset in subsets], rows=rows, split=split, seed=seed, skip_bad_rows=skip_bad_rows, out=scratch,
        )  # fmt: skip
        answers = [read_files(Path(scratch) / str(index)) for index in range(len(subsets))]
    return answers, str(answer["precision"])


def run_subsets(
    progress: Callable[[Mapping[str, Any]], None], open_part: Callable[[Path], Session], kept: Rows, *, folder: str, standins: str,
    data: str, card: dict[str, Any], card_path: str | None, subsets: list[list[str]], rows: int, split: str, seed: int,
    skip_bad_rows: bool, out: str,
) -> dict[str, Any]:  # fmt: skip
    """The worker's half: a folder of ``AnswerFiles`` for each subset, ``<out>/<its place>``, with the truths in the first."""
    dataset = kept.dataset(data, card, card_path, skip_bad_rows)
    writers = [AnswerFiles(_folder(Path(out) / str(index))) for index in range(len(subsets))]
    with np.load(standins, allow_pickle=False) as file:
        replaced = dict(file)
    shuffle = seed if dataset.count(split) > rows else None
    last_progress_s, done = time.monotonic(), 0
    with Parts(splits.read(Path(folder)), open_part) as parts:
        count = min(rows, dataset.count(split))
        branches = Embedding(parts, count)
        rests = [Batching(parts.rest, rows=count, precision=branches.precision) for _ in subsets]
        for batches in in_sets(kept.batches(dataset, split, 1, shuffle=shuffle, limit=rows)):
            embedded = branches.of(batches)
            for index, (subset, writer) in enumerate(zip(subsets, writers, strict=True)):
                feeds = [
                    parts.rest_feed({name: cuts[name] for name in subset if name in cuts}, replaced, batch.inputs)
                    for cuts, batch in zip(embedded, batches, strict=True)
                ]
                for answer, batch in zip(rests[index].answers(feeds), batches, strict=True):
                    writer.append(answer, None if index else batch.truth)
            done += len(batches)
            if time.monotonic() - last_progress_s > TELL_S:
                last_progress_s = time.monotonic()
                progress({"progress": done})
        precision = parts.precision()
    for writer in writers:
        writer.close()
    return {"rows": done, "precision": precision}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
