"""The stages between a card and a bundle, each cached by what it depends on. What `compress` and the one-stage commands share.

A stage whose key is in the cache returns its artifact without importing torch, onnx or a runtime; so these imports stand inside
the functions that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgemm.contracts import onnx_file, plugins
from edgemm.contracts.card import Card
from edgemm.contracts.plain_values import plain
from edgemm.contracts.recipe import Recipe, Step
from edgemm.contracts.target import Target
from edgemm.errors import CheckpointError
from edgemm.pipeline.job import Job, samples
from edgemm.store.artifact import Artifact, write_bytes, write_json

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
OPSET = 18
"""What the exporter writes without conversion, and every target takes."""
UNTRAINED = "; or, to try sizes and latencies on random weights, add --untrained (in Python untrained=True)."
NOTES = "notes.json"
"""Beside an exported graph: what its reader should know of it."""


def opset(recipe: Recipe) -> int:
    """The opset that every target of a recipe takes."""
    return min(plugins.load(Target, name).numerics.opset for name in recipe.targets)


def export(job: Job, *, opset: int = OPSET) -> Artifact:
    """``model.onnx``: the float graph with its front-end, proved equal to the original on real samples.

    Raises:
        ExportError: The exporter refuses the model, or its answer to a row depends on chance or on other rows.
        ParityError: The graph computes something else; names output, error and branch.
    """

    def make(scratch: Path) -> Path:
        path, notes = scratch / "model.onnx", list[str]()
        if job.card.is_onnx:
            from edgemm.graph import user_onnx

            user_onnx.prepare(job.card, path, notes.append)
        else:
            from edgemm.workshop.models import export_parity
            from edgemm.workshop.models.checkpoint.loading import load_model
            from edgemm.workshop.models.onnx_export import export_onnx
            from edgemm.workshop.models.row_by_row import one_batch, require_own_answers

            model = load_model(job.card, note=notes.append)
            require_own_answers(model, one_batch(samples(job)), notes.append)
            export_onnx(model, path, opset=opset)
            write_json(scratch / "parity.json", plain(export_parity.check_export(model, path, samples(job))))
        write_json(scratch / NOTES, notes)
        return path

    for note in weights_notes(job):
        job.note(note)
    facts = {"model": job.identity, "opset": opset, "data": job.fingerprint}
    artifact = job.stage("export", facts, make, steps=(), targets=(), packages=EXPORTERS)
    for note in json.loads(artifact.sibling(NOTES).read_text(encoding="utf-8")):
        job.note(note)
    return artifact


def settle(job: Job, graph: Artifact, target_name: str) -> Artifact:
    """A graph that another tool quantized, in the form that a target computes rightly; itself where there is no such form."""
    if plugins.load(Target, target_name).numerics.activations != "mixed" or not onnx_file.read(graph.main).is_quantized:
        return graph

    def make(scratch: Path) -> Path:
        from edgemm.graph import files, openvino

        model = files.load(graph.main)
        openvino.normalise(model)
        return files.save(model, scratch / "model.onnx")

    return job.stage("settle", {"graph": graph.folder.name}, make, steps=(), targets=(), packages=("onnx",))


def check_weights(job: Job, *, untrained: bool | None) -> None:
    """Refuse a model that nobody trained, unless it is asked for; every stage then has the same one.

    Args:
        untrained: Whether it is asked for; None: a command that cannot be asked for it.

    Raises:
        CheckpointError: The weights that the card names cannot be loaded; or it names none and its factory brings none, with ``untrained``
            only where they cannot be drawn again.
    """
    words = f"the card '{job.card.path}' names no weights"
    if job.weights["origin"] == "unstable":
        raise CheckpointError(
            f"{words}, and its factory builds another model each time it is called.",
            why="two calls gave different weights, though the seeds of torch, numpy and Python were the same.",
            fix="save the trained weights and name them in the card (weights: FILE), or let the factory draw from those generators.",
        )
    if job.weights["origin"] == "drawn" and not untrained:
        raise CheckpointError(
            f"{words}: its factory draws them at random, so the model is untrained.",
            why="accuracy, and what compression cost of it, would say nothing about a trained model.",
            fix="write `weights: FILE` in the card; or train it first: edgemm train CARD -d DATA -o DIR"
            + (UNTRAINED if untrained is not None else "."),
        )


def weights_notes(job: Job) -> list[str]:
    """What a reader must know of the weights: whether anybody trained them, and which of several in the file they are."""
    notes = list(job.weights["notes"])
    match job.weights["origin"]:
        case "named":
            return notes
        case "brought":
            return [*notes, "The card names no weights: they are those that its factory builds the model with, the same at every call."]
    return [
        "UNTRAINED: the card names no weights, and its factory draws them at random (seed 0). Sizes and latencies hold, every accuracy "
        "and every loss of it is that of a model nobody trained. Name the weights in the card (weights: FILE), or train it first.",
        *notes,
    ]


def files_of(artifact: Artifact) -> list[Path]:
    """The model file of an artifact and what belongs to it: external data, the parity found."""
    return [path for path in sorted(artifact.folder.iterdir()) if path.name.endswith((".onnx", ".onnx.data")) or path.name == "parity.json"]


def lay_out(folder: Path, files: Mapping[str, Path], card: Card) -> None:
    """Put ``files`` and the card (with the tokenizers it names) into ``folder``, each whole or not at all; other files there stay."""
    card, beside = card.with_tokenizers()
    contents = beside | {name: path.read_bytes() for name, path in files.items()} | {"model.yaml": card.to_yaml().encode()}
    for name, content in contents.items():
        write_bytes(folder / name, content)


def notes_of(quantized: Artifact) -> list[str]:
    """What the graph steps had to say."""
    return list(json.loads(quantized.sibling(NOTES).read_text(encoding="utf-8")))


def quantize(job: Job, exported: Artifact, steps: Sequence[Step], target_name: str, *, is_trained: bool = False) -> Artifact:
    """``model.onnx`` with Q/DQ in the numerics of a target, by the recipe's graph steps.

    Args:
        exported: The float graph, or one in which training put Q/DQ already (``is_trained``): where no step quantizes, that is brought into
            the target's numerics all the same. Signed integers run in float in ONNX Runtime on x86, and OpenVINO computes some wrongly.
    """
    target = plugins.load(Target, target_name)
    settles = is_trained and not any(step.quantizes for step in steps)

    def make(scratch: Path) -> Path:
        from edgemm.contracts.step import Context
        from edgemm.graph import files
        from edgemm.graph.branches import find_branches

        model, notes = files.load(exported.main), list[str]()
        context = Context(
            card=job.card,
            dataset=job.dataset,
            branches=find_branches(model, job.card),
            target=target_name,
            numerics=target.numerics,
            seed=job.seed,
            scratch=scratch / "scratch",
            progress=job.show,
            note=notes.append,
        )
        for step in steps:
            model = plugins.function("steps", step.name)(model, context, **step.options)
        if settles:
            from edgemm.workshop.quantizing import numerics

            model = numerics.as_trained(model, context)
        write_json(scratch / NOTES, notes)
        return files.save(model, scratch / "model.onnx")

    facts = {
        "graph": exported.folder.name,
        "steps": [[step.name, dict(step.options)] for step in steps],
        "numerics": repr(target.numerics),
        **({"settles": True} if settles else {}),
        "data": job.fingerprint,
        "seed": job.seed,
    }
    packages = ["onnx", *(name for step in steps for name in plugins.packages("steps", step.name))]
    names = [step.name for step in steps]
    return job.stage(f"quantize {target_name}", facts, make, steps=names, targets=[target_name], packages=packages)
