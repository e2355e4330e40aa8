"""What stands in for a missing input: the mean of what its branch makes of the training data, measured at the cuts of the float graph.

A member of a late fusion that is missing has no mean: its place says so, and the joint of the other members answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.batching import in_sets
from edgemm.box.measuring.embedding import Embedding
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Batch
from edgemm.contracts.joint_ops import ABSENT
from edgemm.contracts.slugs import distinct, slug
from edgemm.contracts.specs import SHUT
from edgemm.contracts.target import Target
from edgemm.errors import MeasureError
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact, write_json

ROWS = 2000
"""Rows of train behind a stand-in; of a larger train a seeded choice. The mean is then known to 1/45 of a channel's own spread."""
LEAST_ROWS, MOST_MACS = 200, 5e12
"""A large model is run on fewer rows: 5e12 multiply-accumulates take two cores about a minute in float (ViT-B/32 with text: 700 rows)."""
SMALL_MACS = 100_000_000
"""About 5 ms on one core: digits (2e7) take half of the processor time on one thread that they take on two, and no longer."""
SPLITS = ("train", "calib", "val")
LONGEST = 100  # characters of a branch's file; some systems take no more than 143 bytes


def in_parts(job: Job, graph: Artifact, like: Artifact | None = None) -> Artifact:
    """The split graphs of a float or Q/DQ graph as a folder that ``splits.read`` reads; the main file is its ``split.json``.

    Args:
        like: The float graph that a Q/DQ graph was made of.

    Raises:
        ExportError: The graph cannot be split; names the node.
    """

    def make(scratch: Path) -> Path:
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches
        from edgemm.graph.costs import branch_costs
        from edgemm.graph.split import split

        model = files.load(graph.main)
        parts = split(model, job.card, like=files.load(like.main) if like else None)
        stems = distinct({name: slug(name)[:LONGEST] for name in parts.branches}, taken=["rest"])
        names = {name: f"{stem}.onnx" for name, stem in stems.items()}
        for name, part in parts.branches.items():
            files.save(part, scratch / names[name])
        files.save(parts.rest, scratch / "rest.onnx")
        cuts = {name: tensors for name, tensors in parts.cuts.items() if tensors}
        macs = sum(cost.macs for cost in branch_costs(model, find_branches(model, job.card)).values())
        write_json(scratch / splits.RECORD, {"branches": names, "rest": "rest.onnx", "cuts": cuts, "macs": macs})
        return scratch / splits.RECORD

    facts = {"graph": graph.folder.name, "like": like.folder.name if like else None, "model": job.identity}
    return job.stage("split", facts, make, steps=(), targets=(), packages=("onnx",))


def measure(job: Job, graph: Artifact, like: Artifact | None = None) -> Artifact:
    """``standins.npz``: cut tensor -> its mean over the training data, in the shape that one sample has there.

    Rows whose optional input is missing do not count for that input. Cut tensors of whole numbers get the nearest whole number.

    Args:
        graph: The float graph; its branches run in ONNX Runtime, one sample at a time. A Q/DQ graph only where its cuts are others.
        like: As for ``in_parts``.

    Raises:
        MeasureError: A cut tensor changes its size from row to row, or is not a number; names it.
    """
    parts = in_parts(job, graph, like)
    files = splits.read(parts.folder)
    rows = rows_for(files.macs)

    def means() -> dict[str, np.ndarray]:
        with Parts(files, partial(plugins.load(Target, "onnxruntime").open, **threads_for(files.macs))) as opened:
            split = _split(job)
            shuffle = job.seed if job.dataset.count(split) > rows else None
            return _means(opened, job.dataset.batches(split, 1, shuffle=shuffle, limit=rows), min(rows, job.dataset.count(split)), job)

    facts = {"split": parts.folder.name, "data": job.fingerprint, "seed": job.seed, "rows": rows}
    return job.npz("standins", facts, means, steps=(), targets=(), packages=("onnxruntime", "numpy"))


def rows_for(macs: int, most: int = ROWS) -> int:
    """How many rows a model of ``macs`` a sample is run on; the same on every machine."""
    return max(LEAST_ROWS, min(most, int(MOST_MACS / max(macs, 1))))


def threads_for(macs: int) -> dict[str, Any]:
    """Runtime options of ONNX Runtime for many rows of a model of ``macs`` a sample: its threads spin while they wait for each other."""
    return {"threads": 1} if macs < SMALL_MACS else {}


def load(artifact: Artifact) -> dict[str, np.ndarray]:
    """What ``measure`` wrote."""
    with np.load(artifact.main, allow_pickle=False) as file:
        return dict(file)


def _split(job: Job) -> str:
    there = job.dataset.splits()
    return next((name for name in SPLITS if name in there), there[0])


def _means(parts: Parts, batches: Iterator[Batch], rows: int, job: Job) -> dict[str, np.ndarray]:
    """The running mean of every cut tensor, in float64; a few samples in memory at a time.

    Masks have no mean: an entry that shuts something in half of the rows or more (``-inf``, -1e9) stays shut, else it is the mean of the
    other rows.
    """
    means: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    shut: dict[str, np.ndarray] = {}
    like: dict[str, np.ndarray] = {}
    branches, done = Embedding(parts, rows), 0
    for some in in_sets(batches):
        for name, cuts in (entry for embedded in branches.of(some) for entry in embedded.items()):
            for cut, value in cuts.items():
                like.setdefault(cut, value)
                if value.shape != like[cut].shape:
                    raise _changes(name, cut, like[cut], value)
                counts[cut] = counts.get(cut, 0) + 1
                before = means.get(cut, np.zeros(value.shape))
                is_shut = value <= SHUT if value.dtype.kind == "f" else np.zeros(value.shape, bool)
                shut[cut] = shut.get(cut, 0) + is_shut
                open_rows = np.maximum(counts[cut] - shut[cut], 1)
                means[cut] = np.where(is_shut, before, before + (np.where(is_shut, 0, value).astype(np.float64) - before) / open_rows)
        done += len(some)
        job.show(f"stand-ins, {done} rows", min(1.0, done / rows))
    _require(parts.cuts, means)
    silent = _silent(parts.cuts, like, job.card)
    return {cut: _as(_masked(mean, shut[cut], counts[cut]), like[cut].dtype) for cut, mean in means.items()} | silent


def _silent(cuts: Mapping[str, Sequence[str]], like: Mapping[str, np.ndarray], card: Card) -> dict[str, np.ndarray]:
    """What says that a member of a late fusion is not there, for inputs whose members take nothing else: no guess, but another joint."""
    if card.joint is None:
        return {}
    from edgemm.graph.split import SUFFIX

    alone = [cut for name, tensors in cuts.items() if card.joint.alone_at(name) for cut in tensors]
    return {cut: np.full_like(like[cut], ABSENT) for cut in alone if cut in like and not cut.endswith(SUFFIX) and like[cut].ndim == 3}


def _masked(mean: np.ndarray, shut: np.ndarray, rows: int) -> np.ndarray:
    """The mean with ``-inf`` where most rows shut an entry; of a last axis shut whole the least often shut stays open."""
    is_shut = 2 * shut >= max(rows, 1)
    if not is_shut.any():
        return mean
    least = shut == shut.min(-1, keepdims=True)
    return np.where(is_shut & ~(is_shut.all(-1, keepdims=True) & least), -np.inf, mean)


def _as(mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        return mean >= 0.5
    return np.rint(mean).astype(dtype) if dtype.kind in "iu" else mean.astype(dtype)


def _require(cuts: Mapping[str, object], means: Mapping[str, np.ndarray]) -> None:
    if not means:
        raise MeasureError("no stand-in can be measured: no training row holds any of the inputs.", fix=f"fill {', '.join(cuts)} in train.")
    for cut, mean in means.items():
        if np.isnan(mean).any():
            raise MeasureError(
                f"the stand-in for the tensor '{cut}' is not a number.",
                why="the float model computes NaN, or plus infinity, there on training rows, perhaps on rows without a single word.",
                fix="let the model answer such rows (attention with every key masked is NaN), or leave them out of train.",
            )


def _changes(name: str, cut: str, first: np.ndarray, other: np.ndarray) -> MeasureError:
    return MeasureError(
        f"no stand-in can be measured for the input '{name}'.",
        why=f"its branch ends in '{cut}', whose size changes from row to row: {first.shape}, then {other.shape}.",
        fix="fix the input's length, or pool over it before the fusion.",
    )
