"""What stands in for a missing input: the mean of what its branch makes of the training data, measured at the cuts of the float graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.parts import Parts
from edgemm.contracts import plugins
from edgemm.contracts.dataset import Batch
from edgemm.contracts.target import Target
from edgemm.errors import MeasureError
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact, write_json

ROWS = 2000
"""Rows of train behind a stand-in; of a larger train a seeded choice. The mean is then known to 1/45 of a channel's own spread."""
LEAST_ROWS, MOST_MACS = 200, 5e12
"""A large model is run on fewer rows: 5e12 multiply-accumulates take two cores about a minute in float (ViT-B/32 with text: 700 rows)."""
SPLITS = ("train", "calib", "val")
PLAIN_NAME = re.compile(r"(?!rest$)[A-Za-z0-9_][A-Za-z0-9_.-]*")


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
        names = {
            name: f"{name}.onnx" if PLAIN_NAME.fullmatch(name) else f"branch{number}.onnx" for number, name in enumerate(parts.branches)
        }
        for name, part in parts.branches.items():
            files.save(part, scratch / names[name])
        files.save(parts.rest, scratch / "rest.onnx")
        cuts = {name: tensors for name, tensors in parts.cuts.items() if tensors}
        macs = sum(cost.macs for cost in branch_costs(model, find_branches(model, job.card)).values())
        write_json(scratch / splits.RECORD, {"branches": names, "rest": "rest.onnx", "cuts": cuts, "macs": macs})
        return scratch / splits.RECORD

    inputs = {"graph": graph.folder.name, "like": like.folder.name if like else None, "model": job.identity}
    return job.stage("split", inputs, make, steps=(), targets=(), packages=("onnx",))


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
        with Parts(files, plugins.load(Target, "onnxruntime").open) as opened:
            return _means(opened, _batches(job, rows), rows, job)

    facts = {"split": parts.folder.name, "data": job.fingerprint, "seed": job.seed, "rows": rows}
    return job.npz("standins", facts, means, steps=(), targets=(), packages=("onnxruntime", "numpy"))


def rows_for(macs: int, most: int = ROWS) -> int:
    """How many rows a model of ``macs`` a sample is run on; the same on every machine."""
    return max(LEAST_ROWS, min(most, int(MOST_MACS / max(macs, 1))))


def load(artifact: Artifact) -> dict[str, np.ndarray]:
    """What ``measure`` wrote."""
    with np.load(artifact.main, allow_pickle=False) as file:
        return dict(file)


def _batches(job: Job, rows: int) -> Iterator[Batch]:
    there = job.dataset.splits()
    split = next((name for name in SPLITS if name in there), there[0])
    return job.dataset.batches(split, 1, shuffle=job.seed if job.dataset.count(split) > rows else None, limit=rows)


def _means(parts: Parts, batches: Iterator[Batch], rows: int, job: Job) -> dict[str, np.ndarray]:
    """The running mean of every cut tensor, in float64; one sample in memory at a time."""
    means: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    like: dict[str, np.ndarray] = {}
    for done, batch in enumerate(batches):
        for name in parts.cuts:
            if name in batch.present and not batch.present[name].all():
                continue
            for cut, value in parts.embed(name, batch.inputs).items():
                like.setdefault(cut, value)
                if value.shape != like[cut].shape:
                    raise _changes(name, cut, like[cut], value)
                counts[cut] = counts.get(cut, 0) + 1
                before = means.get(cut, np.zeros(value.shape))
                means[cut] = before + (value.astype(np.float64) - before) / counts[cut]
        job.show(f"stand-ins, {done + 1} rows", min(1.0, (done + 1) / rows))
    _require(parts.cuts, means)
    return {cut: _as(mean, like[cut].dtype) for cut, mean in means.items()}


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
                why="the float model computes NaN, or infinities of both signs, on training rows.",
                fix="look for the branch that does so: `edgemm inspect`.",
            )


def _changes(name: str, cut: str, first: np.ndarray, other: np.ndarray) -> MeasureError:
    return MeasureError(
        f"no stand-in can be measured for the input '{name}'.",
        why=f"its branch ends in '{cut}', whose size changes from row to row: {first.shape}, then {other.shape}.",
        fix="fix the input's length, or pool over it before the fusion.",
    )
