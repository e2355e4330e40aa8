"""The stages between a card and a bundle, each cached by what it depends on. What `compress` and the one-stage commands share.

A stage whose key is in the cache returns its artifact without importing torch, onnx or a runtime; so these imports stand inside
the functions that do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.box.bundle.packing import Reference, write_npz
from edgemm.box.measuring.busy import load
from edgemm.contracts import card as cards
from edgemm.contracts import plugins, stage_code
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.recipe import Recipe, Step
from edgemm.contracts.target import Target
from edgemm.data.checking import check
from edgemm.data.dataset import find_labels, open_dataset, synthetic
from edgemm.progress import Progress
from edgemm.store import cache
from edgemm.store.artifact import Artifact, Maker, write_bytes, write_json

if TYPE_CHECKING:
    pass

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
OPSET = 18
"""What the exporter writes without conversion, and every target takes."""
BATCH_SIZE = 64
"""Rows at a time through the original torch model."""
PARITY_SAMPLES = 16
"""Samples the ladder compares: enough to meet every class of a small task, few enough to cost under a second."""


@dataclass(frozen=True)
class Job:
    """What a run works on.

    Attributes:
        card: The model.
        data: What the user named; None for an ONNX file without data.
        dataset: That opened, or seeded synthetic samples.
        load_before: What the processor was busy with when the run began.
        made: Names of stages that were really run, in order; those found in the cache are in ``reused``.
    """

    card: Card
    data: str | None
    dataset: Dataset
    progress: Progress
    seed: int = 0
    skip_bad_rows: bool = False
    load_before: float = field(default_factory=load)
    made: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)

    @cached_property
    def identity(self) -> dict[str, Any]:
        from edgemm.workshop.models.checkpoint.identity import identity

        return identity(self.card)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        return self.dataset.fingerprint()

    def show(self, text: str, fraction: float) -> None:
        """Progress of the running stage, in the form that probes and steps call."""
        self.progress.update(text, fraction)

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        make: Maker,
        *,
        steps: Iterable[str] | None = None,
        targets: Iterable[str] | None = None,
        packages: Iterable[str] | None = None,
        on_this_machine: bool = False,
    ) -> Artifact:
        """A stage of this run: found by the code of the module that ``make`` stands in, ``inputs`` and versions, or made.

        What a stage leaves out of the following costs a needless repetition, never a wrong result.

        Args:
            name: The first word is the stage's in the cache, what follows is for the reader of the progress.
            steps: Steps that ``make`` calls, beside those that the card's model went through; None = it may be any.
            targets: Targets that it uses, beside those that the code names; None = it may be any.
            packages: Distributions whose version matters, beside those that decode the inputs; None = all that the code imports.
            on_this_machine: True where the result depends on the machine too.
        """
        only = {
            **({} if steps is None else {"steps": [*steps, *applied_steps(self.card)]}),
            **({} if targets is None else {"targets": targets}),
        }
        code = stage_code.of(make.__module__, only=only)
        decoders = [name for spec in self.card.inputs.values() for name in plugins.packages("modalities", spec.modality)]
        fresh = False

        def noted(scratch: Path) -> Path:
            nonlocal fresh
            fresh = True
            return make(scratch)

        with self.progress.stage(name):
            artifact = cache.stage(
                name.split(" ")[0],
                inputs,
                noted,
                code=code.digest,
                packages=code.packages if packages is None else {*packages, *decoders},
                on_this_machine=on_this_machine,
                waiting=self.progress.note,
            )
        (self.made if fresh else self.reused).append(name)
        return artifact


def applied_steps(card: Card) -> list[str]:
    """Steps that a checkpoint's model went through: loading it takes their code."""
    return [step for entry in card.applied for step in entry]


def start(
    card: str | Path,
    data: str | Path | None,
    *,
    needed: Sequence[str] = (),
    seed: int = 0,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
) -> Job:
    """Read the card (drafting one for a bare ``.onnx``) and open the data; without data, seeded synthetic samples.

    Args:
        needed: Splits of ``data`` that the command cannot do without.

    Raises:
        CardError, DataError: Either is wrong.
        Mistakes: Several rows are.
    """
    made = _card(card)
    if data is not None:
        made = find_labels(data, made)
        dataset = open_dataset(data, made, skip_bad_rows=skip_bad_rows)
        check(dataset, needed=needed)
    else:
        dataset = synthetic(made, seed=seed)
    return Job(made, None if data is None else str(data), dataset, progress or Progress(), seed, skip_bad_rows)


def _card(given: str | Path) -> Card:
    path = Path(given)
    if path.suffix != ".onnx":
        return cards.load(given)
    beside = path.parent / "model.yaml"
    if beside.is_file():
        card = cards.load(beside)
        if card.model_path and card.model_path.resolve() == path.resolve():
            return card
    from edgemm.graph import onnx_card

    return onnx_card.draft(path)


def opset(recipe: Recipe) -> int:
    """The opset that every target of a recipe takes."""
    return min(plugins.load(Target, name).numerics.opset for name in recipe.targets)


def samples(job: Job, count: int = PARITY_SAMPLES) -> list[dict[str, np.ndarray]]:
    """The first ``count`` real samples of val (train where there is no val), batch size 1 each."""
    split = next(name for name in ("val", "train", "test") if name in job.dataset.splits())
    return [batch.inputs for batch in islice(job.dataset.batches(split, 1, limit=count), count)]


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
    given = {name: dict(spec.options) for name, spec in card.inputs.items()}
    inputs = {}
    for name, spec in card.inputs.items():
        if given[name].get("tokenizer"):
            inside = f"{name}.tokenizer.json"
            files = {**files, inside: card.folder / given[name]["tokenizer"]}
            given[name]["tokenizer"] = inside
        inputs[name] = replace(spec, options=given[name])
    for name, path in files.items():
        write_bytes(folder / name, path.read_bytes())
    write_bytes(folder / "model.yaml", card.replace(inputs=inputs).to_yaml().encode())


def reference(job: Job, exported: Artifact) -> Artifact:
    """``reference.npz``: labels (``label:<output>``) and the original model's outputs on the test split.

    The original is the torch model; for an ONNX file, that file in ONNX Runtime.
    """
    runtime, artifact, batch_size = ("onnxruntime", exported.main, 1) if job.card.is_onnx else ("torch", job.card.path, BATCH_SIZE)

    def make(scratch: Path) -> Path:
        parts: dict[str, list[np.ndarray]] = {}
        assert artifact is not None  # a card of torch was read from a file
        with plugins.load(Target, runtime).open(artifact) as session:
            for batch in job.dataset.batches("test", batch_size):
                for name, value in session.run(batch.inputs).items():
                    parts.setdefault(name, []).append(value)
                for name, value in batch.truth.items():
                    parts.setdefault(f"label:{name}", []).append(value)
        path = scratch / "reference.npz"
        write_npz(path, {name: np.concatenate(values) for name, values in parts.items()})
        return path

    inputs = {"model": job.identity, "data": job.fingerprint, "graph": exported.folder.name if job.card.is_onnx else None}
    return job.stage("reference", inputs, make, steps=(), targets=[runtime], packages=(runtime, "numpy"))


def read_reference(reference: Artifact) -> Reference:
    """What stage ``reference`` wrote."""
    with np.load(reference.main, allow_pickle=False) as file:
        return Reference.of_arrays(dict(file))


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
