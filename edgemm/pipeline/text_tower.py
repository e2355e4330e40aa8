"""The text tower of a model that is asked in words, where it goes along in the bundle so that `run` takes new words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemm.box.bundle import text_tower as packed
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.recipe import Step
from edgemm.contracts.target import Target
from edgemm.contracts.word_file import read_words
from edgemm.data.dataset import synthetic
from edgemm.errors import CardError
from edgemm.pipeline import stages
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact, sha256_file, write_json

TASK = "words"
BITS = 8  # the tower runs once a word, so memory alone counts; eight bits a weight turn its vectors by less than a degree


def files(job: Job, compiled: Sequence[Compiled], *, opset: int) -> dict[str, Path | bytes]:
    """What goes into a bundle: a graph for each target, the tokenizer, what the words are; {} where no tower goes along.

    Args:
        job: The original's, whose card names the folder.

    Raises:
        CardError: Words of two folders.
        ExportError, ParityError: Of the tower's graph.
    """
    chosen = _chosen(job.card)
    if not chosen:
        return {}
    folders = sorted({str(options["path"]) for options in chosen.values()})
    if len(folders) > 1:
        raise CardError(
            f"the words of this card are read by {len(folders)} text towers: {', '.join(folders)}.",
            why="one goes along in a bundle.",
            fix="take `vector` out of the outputs of all but one of them.",
        )
    text_job = _text_job(job, folders[0])
    exported = stages.export(text_job, opset=opset)
    content: dict[str, Path | bytes] = {}
    for part in compiled:
        folder = _in_few_bits(text_job, exported, part.target).folder
        content |= {packed.beside_graph(part.target, path.name): path for path in folder.glob("model.onnx*")}
    tokenizer = next(iter(text_job.card.tokenizers().values())).read_bytes()
    return content | {packed.RECORD: _record(job, text_job, chosen).read_bytes(), packed.TOKENIZER: tokenizer}


def _chosen(card: Card) -> dict[str, dict[str, Any]]:
    """Outputs that take new words -> the options of their head."""
    wanted = [name for name, output in card.outputs.items() if output.task == TASK and output.options.get("vector")]
    if not wanted or not (card.factory or "").startswith("models:"):
        return {}
    from edgemm.workshop.models.part_choices import choices

    heads = choices(card)[2]
    return {name: heads[name][1] for name in wanted}


def _text_job(job: Job, folder: str) -> Job:
    """The tower as a model of its own."""
    from edgemm.workshop.models.checkpoint.huggingface_card import text_card

    card = text_card(job.card, folder)
    return Job(card, None, synthetic(card, seed=job.seed), job.progress, job.seed)


def _in_few_bits(job: Job, exported: Artifact, target: str) -> Artifact:
    """The tower's graph with its weights in ``BITS``, where the target keeps such small; else in float."""
    if BITS not in plugins.load(Target, target).numerics.weight_bits:
        return exported
    return stages.quantize(job, exported, [Step("quantize", {"method": "weights", "bits": BITS}, "graph")], target)


def _record(job: Job, text_job: Job, chosen: Mapping[str, Mapping[str, Any]]) -> Path:
    """``words.json``: how texts are read, and of each output its words with their vectors, by which the box proves its tower."""

    def make(scratch: Path) -> Path:
        from edgemm.workshop.models.layers.words import word_vectors

        outputs = {}
        for name, options in chosen.items():
            words = word_vectors(job.card.folder / options["path"], job.card.folder / options["file"])
            outputs[name] = {
                "vector": job.card.outputs[name].options["vector"],
                "scale": words.scale,
                "bias": words.bias,
                "words": read_words(job.card.folder / options["file"]),
                "vectors": words.vectors.tolist(),
            }
        write_json(scratch / "words.json", {"format": packed.FORMAT, "input": packed.described(text_job.card), "outputs": outputs})
        return scratch / "words.json"

    digests = {name: sha256_file(job.card.folder / options["file"]) for name, options in chosen.items()}
    facts = {"tower": text_job.identity, "words": digests, "vectors": {name: job.card.outputs[name].options["vector"] for name in chosen}}
    return job.stage("words", facts, make, steps=(), targets=(), packages=("torch", "transformers", "tokenizers")).main
