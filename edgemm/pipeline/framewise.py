"""Branches whose frames a box may keep: cut in two, and proved on the target to give what the branch gives as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle import parts as splits
from edgemm.box.bundle.frames import Frames, trial
from edgemm.box.bundle.parts import FramewiseFiles, SplitFiles
from edgemm.contracts.deployment import Deployment
from edgemm.errors import EdgemmError
from edgemm.pipeline.job import Job, samples
from edgemm.store.artifact import Artifact, write_json

ROWS = 4
"""Real samples, one after the other, that make the stream of the proof."""


def in_frames(job: Job, parts: Artifact, deployment: Deployment) -> Artifact | None:
    """``framewise.json`` and its graphs, for the folder of the split graphs; None where the model has no input with frames.

    Args:
        parts: The split graphs.
        deployment: How they run.
    """
    from edgemm.graph.framewise import has_frames

    names = [name for name in splits.read(parts.folder).branches if name in job.card.inputs and has_frames(job.card, name)]
    if not names:
        return None

    def make(scratch: Path) -> Path:
        files, rows = splits.read(parts.folder), samples(job, ROWS)
        entries = {name: _proved(job, files, name, np.concatenate([row[name] for row in rows]), deployment, scratch) for name in names}
        sorts = {"inputs": dict, "whole": str}
        plain = {key: {name: entry for name, entry in entries.items() if isinstance(entry, sort)} for key, sort in sorts.items()}
        write_json(scratch / splits.FRAMEWISE, plain)
        return scratch / splits.FRAMEWISE

    facts = {"split": parts.folder.name, "deployment": deployment.key(), "data": job.fingerprint}
    packages = ("onnx", "onnxruntime", "numpy")
    return job.stage("framewise", facts, make, steps=(), targets=(), packages=packages, runs=[deployment], on_this_machine=True)


def _proved(job: Job, files: SplitFiles, name: str, rows: np.ndarray, deployment: Deployment, folder: Path) -> dict[str, Any] | str:
    """The entry of an input whose graphs lie in ``folder`` now, or why there is none."""
    from edgemm.graph import files as graphs
    from edgemm.graph.framewise import cuts

    stem, reason = files.branches[name].stem, ""
    for parts in cuts(graphs.load(files.branches[name]), job.card, name, rows[:1]):
        if isinstance(parts, str):
            return reason or parts
        made = {key: graphs.save(graph, folder / f"{stem}+{key}.onnx") for key in ("block", "rest") if (graph := getattr(parts, key))}
        numbers = {key: getattr(parts, key) for key in ("frames", "hop", "window", "pad", "at_once", "axis")}
        objection = _objection(FramewiseFiles(made["block"], made.get("rest"), **numbers), files.branches[name], rows, deployment)
        if not objection:
            return {"block": made["block"].name, "rest": made["rest"].name if "rest" in made else None, **numbers}
        reason = reason or objection
        for path in folder.glob(f"{stem}+*"):
            path.unlink()
    return reason


def _objection(files: FramewiseFiles, branch: Path, rows: np.ndarray, deployment: Deployment) -> str:
    """Why the two graphs cannot stand for the branch on the target; "" where they give the same."""
    target = deployment.plugin()
    options = target.without_unsafe(deployment.runtime_options)
    try:
        with target.open(branch, **options) as session:
            frames = Frames(files, lambda path: target.open(path, **options))
            name = session.inputs[0].name
            tried = trial(frames, lambda window: session.run({name: window}), rows, files.at_once)
            frames.close()
    except EdgemmError as err:
        return f"{err.what} {err.why}".strip().rstrip(".")
    return tried.objection if tried.off > tried.allowed else ""  # a box looks by itself whether it is faster there
