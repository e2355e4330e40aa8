"""What stands in for a missing input: the mean of what its branch makes of the training data, measured at the cuts of the float graph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgemm import plugins, splits
from edgemm.artifact import Artifact, write_json
from edgemm.bundle import write_npz
from edgemm.data import Batch
from edgemm.errors import MeasureError
from edgemm.splits import Parts
from edgemm.stages import Job
from edgemm.targets._protocol import Target

ROWS = 2000
"""Rows of train behind a stand-in; of a larger train a seeded choice. The mean is then known to 1/45 of a channel's own spread."""
SPLITS = ("train", "calib", "val")
PLAIN_NAME = re.compile(r"(?!rest$)[A-Za-z0-9_][A-Za-z0-9_.-]*")


def take_apart(job: Job, graph: Artifact, like: Artifact | None = None) -> Artifact:
    """The split graphs of a float or Q/DQ graph as a folder that ``splits.read`` reads; the main file is its ``split.json``.

    Args:
        like: The float graph that a Q/DQ graph was made of.

    Raises:
        ExportError: The graph cannot be split; names the node.
    """

    def make(scratch: Path) -> Path:
        from edgemm.graph import files
        from edgemm.graph.split import split

        parts = split(files.load(graph.main), job.card, like=files.load(like.main) if like else None)
        names = {name: f"{name}.onnx" if PLAIN_NAME.fullmatch(name) else f"branch{place}.onnx" for place, name in enumerate(parts.branches)}
        for name, part in parts.branches.items():
            files.save(part, scratch / names[name])
        files.save(parts.rest, scratch / "rest.onnx")
        cuts = {name: tensors for name, tensors in parts.cuts.items() if tensors}
        write_json(scratch / splits.RECORD, {"branches": names, "rest": "rest.onnx", "cuts": cuts})
        return scratch / splits.RECORD

    inputs = {"graph": graph.folder.name, "like": like.folder.name if like else None, "model": job.identity}
    return job.stage("split", inputs, make, packages=("onnx",))


def measure(job: Job, exported: Artifact) -> Artifact:
    """``standins.npz``: cut tensor -> its mean over the training data, in the shape that one sample has there.

    Rows whose optional input is missing do not count for that input. Cut tensors of whole numbers get the nearest whole number.

    Args:
        exported: The float graph; its branches run in ONNX Runtime, one sample at a time.

    Raises:
        MeasureError: A cut tensor changes its size from row to row, or is not a number; names it.
    """
    parts = take_apart(job, exported)

    def make(scratch: Path) -> Path:
        runtime = plugins.load(Target, "onnxruntime")
        with Parts(splits.read(parts.folder), runtime.open) as opened:
            means = _means(opened, _rows(job), job)
        path = scratch / "standins.npz"
        write_npz(path, means)
        return path

    inputs = {"split": parts.folder.name, "data": job.fingerprint, "seed": job.seed, "rows": ROWS}
    return job.stage("standins", inputs, make, packages=("onnxruntime", "numpy"))


def load(artifact: Artifact) -> dict[str, np.ndarray]:
    """What ``measure`` wrote."""
    with np.load(artifact.main, allow_pickle=False) as file:
        return dict(file)


def _rows(job: Job) -> Iterator[Batch]:
    there = job.dataset.splits()
    split = next((name for name in SPLITS if name in there), there[0])
    count = job.dataset.count(split)
    return job.dataset.batches(split, 1, shuffle=job.seed if count > ROWS else None, limit=ROWS)


def _means(parts: Parts, rows: Iterator[Batch], job: Job) -> dict[str, np.ndarray]:
    """The running mean of every cut tensor, in float64; one sample in memory at a time."""
    means: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    like: dict[str, np.ndarray] = {}
    for done, batch in enumerate(rows):
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
        job.show(f"stand-ins, {done + 1} rows", min(1.0, (done + 1) / ROWS))
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
