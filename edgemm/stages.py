"""The stages between a card and a bundle, each cached by what it depends on. What `compress` and the one-stage commands share.

A stage whose key is in the cache returns its artifact without importing torch, onnx or a runtime; so these imports stand inside
the functions that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm import cache, plugins
from edgemm.artifact import Artifact, Maker, write_json
from edgemm.card import Card
from edgemm.data import Dataset
from edgemm.errors import ParityError
from edgemm.modalities._protocol import input_specs
from edgemm.progress import Progress
from edgemm.recipe import Recipe, Step
from edgemm.targets._protocol import Target

if TYPE_CHECKING:
    from edgemm.models.fused import FusedModel

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
QUANTIZERS = ("nncf", "onnx", "onnxruntime")
PARITY_SAMPLES = 16
"""Samples the ladder compares: enough to meet every class of a small task, few enough to cost under a second."""


@dataclass(frozen=True)
class Job:
    """What a run works on.

    Attributes:
        card: The model.
        dataset: Its data; a synthetic one for an ONNX file without data.
        made: Names of stages that were really run, in order; those found in the cache are in ``reused``.
    """

    card: Card
    dataset: Dataset
    progress: Progress
    seed: int = 0
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    @cached_property
    def identity(self) -> dict[str, Any]:
        from edgemm.checkpoint_identity import identity

        return identity(self.card)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        return self.dataset.fingerprint()

    @cached_property
    def model(self) -> FusedModel:
        """The torch model, loaded once, on first use."""
        from edgemm.checkpoint import load_model

        return load_model(self.card)

    def release(self) -> None:
        """Forget the torch model: quantizing a large graph needs the memory."""
        self.__dict__.pop("model", None)

    def stage(self, name: str, inputs: Mapping[str, Any], make: Maker, **options: Any) -> Artifact:
        fresh = False

        def noted(scratch: Path) -> Path:
            nonlocal fresh
            fresh = True
            return make(scratch)

        with self.progress.stage(name):
            artifact = cache.stage(name.split(" ")[0], inputs, noted, **options)
        (self.made if fresh else self.reused).append(name)
        return artifact


def samples(job: Job, count: int = PARITY_SAMPLES) -> list[dict[str, np.ndarray]]:
    """The first ``count`` real samples of val (train where there is no val), batch size 1 each."""
    split = next(name for name in ("val", "train", "test") if name in job.dataset.splits())
    return [batch.inputs for batch in islice(job.dataset.batches(split, 1, limit=count), count)]


def export(job: Job, *, opset: int = 18) -> Artifact:
    """``model.onnx``: the float graph with its front-end, proved equal to the original on real samples.

    Raises:
        ExportError: The exporter refuses the model.
        ParityError: The graph computes something else; names output, error and branch.
    """

    def make(scratch: Path) -> Path:
        path = scratch / "model.onnx"
        if job.card.model:
            from edgemm.graph import imported

            imported.prepare(job.card, path)
        else:
            from edgemm.exporting import export_onnx
            from edgemm.graph import parity

            export_onnx(job.model, path, opset=opset)
            write_json(scratch / "parity.json", parity.check_export(job.model, path, samples(job)).to_dict())
        return path

    inputs = {"model": job.identity, "opset": opset, "data": job.fingerprint}
    return job.stage("export", inputs, make, packages=EXPORTERS)


def reference(job: Job, exported: Artifact) -> Artifact:
    """``reference.npz``: labels (``label:<output>``) and the original model's outputs on the test split.

    The original is the torch model; for an ONNX file, that file in ONNX Runtime.
    """

    def make(scratch: Path) -> Path:
        from edgemm.bundle import write_npz

        run = _original(job, exported)
        parts: dict[str, list[np.ndarray]] = {}
        for batch in job.dataset.batches("test", 1 if job.card.model else 64):
            for name, value in run(batch.inputs).items():
                parts.setdefault(name, []).append(value)
            for name, value in batch.targets.items():
                parts.setdefault(f"label:{name}", []).append(value)
        path = scratch / "reference.npz"
        write_npz(path, {name: np.concatenate(values) for name, values in parts.items()})
        return path

    inputs = {"model": job.identity, "data": job.fingerprint, "graph": exported.folder.name if job.card.model else None}
    return job.stage("reference", inputs, make, packages=("torch", "numpy"))


def quantize(job: Job, exported: Artifact, steps: Sequence[Step], target_name: str, *, keep_float: Sequence[str] = ()) -> Artifact:
    """``model.onnx`` with Q/DQ in the numerics of a target, by the recipe's graph steps.

    Args:
        keep_float: Branches that must stay in float on this target, whatever the recipe says.
    """
    target = plugins.load(Target, target_name)

    def make(scratch: Path) -> Path:
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches
        from edgemm.steps._protocol import Context

        model = files.load(exported.main)
        context = Context(
            card=job.card,
            dataset=job.dataset,
            branches=find_branches(model, job.card),
            target=target_name,
            numerics=target.numerics,
            seed=job.seed,
            scratch=scratch / "scratch",
            progress=lambda text, fraction: job.progress.update(fraction, text),
        )
        for step in steps:
            options = dict(step.options)
            if step.name == "quantize" and keep_float:
                options["precision"] = {**options.get("precision", {}), **dict.fromkeys(keep_float, "fp32")}
            model = plugins.function("steps", step.name)(model, context, **options)
        return files.save(model, scratch / "model.onnx")

    inputs = {
        "graph": exported.folder.name,
        "steps": [[step.name, dict(step.options)] for step in steps],
        "keep_float": sorted(keep_float),
        "numerics": repr(target.numerics),
        "data": job.fingerprint,
        "seed": job.seed,
    }
    return job.stage(f"quantize {target_name}", inputs, make, packages=QUANTIZERS)


def _original(job: Job, exported: Artifact) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    if job.card.model:
        session = plugins.load(Target, "onnxruntime").open(exported.main)
        return session.run
    import torch

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = job.model({name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.float().numpy() for name, value in outputs.items()}

    return run
