"""The stages between a card and a bundle, each cached by what it depends on. What `compress` and the one-stage commands share.

A stage whose key is in the cache returns its artifact without importing torch, onnx or a runtime; so these imports stand inside
the functions that do the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.answers import Answers
from edgemm.contracts.card import Card
from edgemm.contracts.recipe import Recipe, Step
from edgemm.contracts.target import Target
from edgemm.pipeline.job import Job, samples
from edgemm.store.artifact import Artifact, write_bytes, write_json

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
OPSET = 18
"""What the exporter writes without conversion, and every target takes."""
BATCH_SIZE = 64
"""Rows at a time through the original torch model."""


def opset(recipe: Recipe) -> int:
    """The opset that every target of a recipe takes."""
    return min(plugins.load(Target, name).numerics.opset for name in recipe.targets)


def export(job: Job, *, opset: int = OPSET) -> Artifact:
    """``model.onnx``: the float graph with its front-end, proved equal to the original on real samples.

    Raises:
        ExportError: The exporter refuses the model.
        ParityError: The graph computes something else; names output, error and branch.
    """

    def make(scratch: Path) -> Path:
        path = scratch / "model.onnx"
        if job.card.is_onnx:
            from edgemm.graph import user_onnx

            user_onnx.prepare(job.card, path)
        else:
            from edgemm.workshop.models import export_parity
            from edgemm.workshop.models.checkpoint.loading import load_model
            from edgemm.workshop.models.onnx_export import export_onnx

            model = load_model(job.card)
            export_onnx(model, path, opset=opset)
            write_json(scratch / "parity.json", export_parity.check_export(model, path, samples(job)).to_dict())
        return path

    inputs = {"model": job.identity, "opset": opset, "data": job.fingerprint}
    return job.stage("export", inputs, make, steps=(), targets=(), packages=EXPORTERS)


def files_of(artifact: Artifact) -> list[Path]:
    """The model file of an artifact and what belongs to it: external data, the parity found."""
    return [path for path in sorted(artifact.folder.iterdir()) if path.name.endswith((".onnx", ".onnx.data")) or path.name == "parity.json"]


def lay_out(folder: Path, files: Mapping[str, Path], card: Card) -> None:
    """Put ``files`` and the card (with the tokenizers it names) into ``folder``, each whole or not at all; other files there stay."""
    options = {name: dict(spec.options) for name, spec in card.inputs.items()}
    inputs = {}
    for name, spec in card.inputs.items():
        if options[name].get("tokenizer"):
            inside = f"{name}.tokenizer.json"
            files = {**files, inside: card.folder / options[name]["tokenizer"]}
            options[name]["tokenizer"] = inside
        inputs[name] = replace(spec, options=options[name])
    for name, path in files.items():
        write_bytes(folder / name, path.read_bytes())
    write_bytes(folder / "model.yaml", card.replace(inputs=inputs).to_yaml().encode())


def reference(job: Job, exported: Artifact) -> Artifact:
    """``reference.npz``: labels and the original model's outputs on the test split, as ``Answers.read`` reads them.

    The original is the torch model; for an ONNX file, that file in ONNX Runtime.
    """
    runtime, model, batch_size = ("onnxruntime", exported.main, 1) if job.card.is_onnx else ("torch", job.card.path, BATCH_SIZE)

    def answers() -> dict[str, np.ndarray]:
        batches: dict[str, list[np.ndarray]] = {}
        assert model is not None  # a card of torch was read from a file
        with plugins.load(Target, runtime).open(model) as session:
            for batch in job.dataset.batches("test", batch_size):
                for name, value in Answers(session.run(batch.inputs), batch.truth).arrays().items():
                    batches.setdefault(name, []).append(value)
        return {name: np.concatenate(values) for name, values in batches.items()}

    facts = {"model": job.identity, "data": job.fingerprint, "graph": exported.folder.name if job.card.is_onnx else None}
    return job.npz("reference", facts, answers, steps=(), targets=[runtime], packages=(runtime, "numpy"))


def quantize(job: Job, exported: Artifact, steps: Sequence[Step], target_name: str) -> Artifact:
    """``model.onnx`` with Q/DQ in the numerics of a target, by the recipe's graph steps.

    Args:
        exported: The float graph, or one in which training put Q/DQ already.
    """
    target = plugins.load(Target, target_name)

    def make(scratch: Path) -> Path:
        from edgemm.contracts.step import Context
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches

        model = files.load(exported.main)
        context = Context(
            card=job.card,
            dataset=job.dataset,
            branches=find_branches(model, job.card),
            target=target_name,
            numerics=target.numerics,
            seed=job.seed,
            scratch=scratch / "scratch",
            progress=job.show,
        )
        for step in steps:
            model = plugins.function("steps", step.name)(model, context, **step.options)
        return files.save(model, scratch / "model.onnx")

    inputs = {
        "graph": exported.folder.name,
        "steps": [[step.name, dict(step.options)] for step in steps],
        "numerics": repr(target.numerics),
        "data": job.fingerprint,
        "seed": job.seed,
    }
    packages = ["onnx", *(name for step in steps for name in plugins.packages("steps", step.name))]
    names = [step.name for step in steps]
    return job.stage(f"quantize {target_name}", inputs, make, steps=names, targets=[target_name], packages=packages)
