"""The stages between a card and a bundle, each cached by what it depends on. What `compress` and the one-stage commands share.

A stage whose key is in the cache returns its artifact without importing torch, onnx or a runtime; so these imports stand inside
the functions that do the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm import cache, plugins
from edgemm import card as cards
from edgemm.artifact import Artifact, Maker, write_bytes, write_json
from edgemm.bundle import Golden, Reference, write_npz
from edgemm.card import Card
from edgemm.data import Dataset, find_labels, open_dataset, synthetic
from edgemm.errors import ParityError
from edgemm.golden import run as run_golden
from edgemm.golden import stack, tolerance
from edgemm.probes._schedule import Candidate, predict
from edgemm.probes._tuning import tune
from edgemm.progress import Progress
from edgemm.recipe import Recipe, Step
from edgemm.targets._protocol import Target

if TYPE_CHECKING:
    from edgemm.models.fused import FusedModel

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
QUANTIZERS = ("nncf", "onnx", "onnxruntime")
OPSET = 18
"""What the exporter writes without conversion, and every target takes."""
PARITY_SAMPLES = 16
"""Samples the ladder compares: enough to meet every class of a small task, few enough to cost under a second."""


@dataclass(frozen=True)
class Job:
    """What a run works on.

    Attributes:
        card: The model.
        data: What the user named; None for an ONNX file without data.
        dataset: That opened, or seeded synthetic samples.
        made: Names of stages that were really run, in order; those found in the cache are in ``reused``.
    """

    card: Card
    data: str | None
    dataset: Dataset
    progress: Progress
    seed: int = 0
    skip_bad_rows: bool = False
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

    def show(self, text: str, fraction: float) -> None:
        """Progress of the running stage, in the form that probes and steps call."""
        self.progress.update(text, fraction)

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


def start(
    card: str | Path, data: str | Path | None, *, seed: int = 0, skip_bad_rows: bool = False, progress: Progress | None = None
) -> Job:
    """Read the card (drafting one for a bare ``.onnx``) and open the data; without data, seeded synthetic samples.

    Raises:
        CardError, DataError: Either is wrong.
    """
    made = _card(card)
    if data is not None:
        made = find_labels(data, made)
        dataset = open_dataset(data, made, skip_bad_rows=skip_bad_rows)
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

    def make(scratch: Path) -> Path:
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
            progress=job.show,
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


def read_reference(reference: Artifact) -> Reference:
    """What stage ``reference`` wrote."""
    with np.load(reference.main, allow_pickle=False) as file:
        return Reference.of_arrays(dict(file))


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


@dataclass(frozen=True)
class Compiled:
    """What one target got.

    Attributes:
        given: Options of the target itself, from the recipe.
        model: The Q/DQ graph.
        options: Runtime options chosen by measurement here; ``safe`` those that apply on any machine.
        table: What was timed to choose them.
        rungs: The parity ladder of the graph with these options.
        kept_float: Branches left in float because this target computes them wrongly in INT8.
    """

    target: str
    given: Mapping[str, Any]
    model: Artifact
    options: Mapping[str, Any]
    safe: Mapping[str, Any]
    table: Sequence[Mapping[str, Any]]
    rungs: Sequence[Mapping[str, Any]]
    kept_float: Sequence[str] = ()
    notes: Sequence[str] = ()

    def candidate(self, **changes: Any) -> Candidate:
        """This bundle part as something to measure."""
        plain = {
            "name": f"{self.target} int8",
            "subject": "bundle",
            "target": self.target,
            "artifact": self.model.main,
            "options": self.options,
            "target_options": self.given,
            "precision_asked": f"int8+{self.options.get('precision', 'f32')}",
        }
        return Candidate(**{**plain, **changes})


def compile_for(job: Job, exported: Artifact, recipe: Recipe, name: str) -> Compiled:
    """Quantize for a target, prove that it computes what the graph says, and choose runtime options by measurement.

    A branch whose INT8 the target computes wrongly is left in float there, and the result says so.

    Raises:
        ParityError: The target computes the graph wrongly, also with the guilty branch in float.
    """
    given = dict(recipe.targets[name])
    target = plugins.find(Target, name)(**given)
    forbid = forbidden(recipe)
    safe = target.choices(forbid=forbid)[0]
    kept: list[str] = []
    while True:
        model = quantize(job, exported, recipe.graph_steps(), name, keep_float=kept)
        rungs = ladder(job, exported, model, name, given, safe)
        broken = next((rung for rung in rungs if not rung["ok"]), None)
        if broken is None:
            break
        branch = (broken.get("culprit") or {}).get("branch")
        if branch is None or branch in kept:
            raise _broken(name, broken)
        kept.append(branch)
    options, table = _tuned(job, exported, model, recipe, name, given, forbid)
    if options != safe:
        tuned_rungs = ladder(job, exported, model, name, given, options)
        if all(rung["ok"] for rung in tuned_rungs):
            rungs = tuned_rungs
        else:
            table = [{**row, "note": "breaks the parity ladder."} if row["options"] == options else row for row in table]
            options = safe
    notes = [f"{name}: branch '{branch}' stays in float, this target computes its INT8 wrongly." for branch in kept]
    notes += [f"{name}: {_words(row['options'])}: {row['note']}" for row in table if row["note"]]
    return Compiled(name, given, model, options, safe, table, rungs, kept, notes)


def forbidden(recipe: Recipe) -> frozenset[str]:
    """Float types that must not run: a branch that the recipe marks fp32 forbids the short ones, which hold for a whole graph."""
    asked = {value for step in recipe.graph_steps() for value in (step.options.get("precision") or {}).values()}
    return frozenset({"bf16", "fp16"} if "fp32" in asked else ())


def ladder(
    job: Job, exported: Artifact, quantized: Artifact, name: str, given: Mapping[str, Any], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The parity ladder from the float graph to what the target computes, as plain rungs; a broken one names branch and node."""
    target = plugins.find(Target, name)(**given)

    def make(scratch: Path) -> Path:
        from edgemm.graph import parity

        with target.open(quantized.main, **options) as session:
            rungs = parity.check_graphs(
                exported.main, quantized.main, session, samples(job), card=job.card, target=name,
                reopen=lambda path: target.open(path, **options),
            )  # fmt: skip
        path = scratch / "parity.json"
        write_json(path, [rung.to_dict() for rung in rungs])
        return path

    inputs = {
        "graph": exported.folder.name,
        "quantized": quantized.folder.name,
        "target": [name, dict(given)],
        "options": dict(options),
        "data": job.fingerprint,
        "seed": job.seed,
    }
    made = job.stage(f"parity {name}", inputs, make, packages=("onnxruntime", *target.versions()), on_this_machine=True)
    return list(json.loads(made.main.read_text(encoding="utf-8")))


def _tuned(
    job: Job, exported: Artifact, model: Artifact, recipe: Recipe, name: str, given: Mapping[str, Any], forbid: frozenset[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fastest runtime options whose accuracy holds, and the table behind the choice."""

    def make(scratch: Path) -> Path:
        found = tune(name, model.main, samples(job, 1)[0], forbid=forbid, target_options=given, progress=job.show)
        path = scratch / "tuned.json"
        write_json(path, {"options": found.options, "table": [asdict(choice) for choice in found.table]})
        return path

    versions = plugins.find(Target, name)(**given).versions()
    inputs = {"model": model.folder.name, "target": [name, dict(given)], "forbid": sorted(forbid), "data": job.fingerprint}
    made = json.loads(job.stage(f"tune {name}", inputs, make, packages=versions, on_this_machine=True).main.read_text(encoding="utf-8"))
    return made["options"], made["table"]


def _broken(target: str, rung: Mapping[str, Any]) -> ParityError:
    culprit = rung.get("culprit") or {}
    where = f"node '{culprit['node']}' of branch '{culprit['branch']}'" if culprit else "no single node could be named"
    return ParityError(
        f"{target} computes the graph wrongly: {rung['name']}.",
        why=f"{rung.get('note') or 'outputs differ'}; {where}.",
        fix="keep that branch in fp32 under steps.quantize.precision, or choose another target; please report the model.",
    )


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "its defaults"


def predictions(job: Job, candidate: Candidate, artifact: Artifact) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A candidate's answers on the test split and the truth, from a process of its own."""

    def make(scratch: Path) -> Path:
        answers, truth = predict(candidate, str(job.data), job.card, skip_bad_rows=job.skip_bad_rows)
        path = scratch / "predictions.npz"
        write_npz(path, {**answers, **{f"label:{name}": array for name, array in truth.items()}})
        return path

    target = plugins.find(Target, candidate.target)(**candidate.target_options)
    inputs = {
        "artifact": artifact.folder.name,
        "target": [candidate.target, dict(candidate.target_options)],
        "options": dict(candidate.options),
        "data": job.fingerprint,
    }
    made = job.stage(f"accuracy {candidate.name}", inputs, make, packages=target.versions(), on_this_machine=True)
    with np.load(made.main, allow_pickle=False) as file:
        flat = dict(file)
    labels = {key.removeprefix("label:"): value for key, value in flat.items() if key.startswith("label:")}
    return {key: value for key, value in flat.items() if not key.startswith("label:")}, labels


def golden(job: Job, exported: Artifact, compiled: Sequence[Compiled], count: int = 4) -> Golden:
    """A few samples with every target's outputs, and how far another machine's may be off."""

    def make(scratch: Path) -> Path:
        feed = Golden(stack(samples(job, count)))
        with plugins.load(Target, "onnxruntime").open(exported.main) as session:
            floats = run_golden(session, feed)
        outputs, allowed = {}, {}
        for part in compiled:
            target = plugins.find(Target, part.target)(**part.given)
            with target.open(part.model.main, **part.options) as session:
                outputs[part.target] = run_golden(session, feed)
                precision = session.precision()
            with target.open(part.model.main, **part.safe) as session:
                others = [run_golden(session, feed)]
            allowed[part.target] = tolerance(outputs[part.target], floats, precision, others=others)
        path = scratch / "golden.npz"
        write_npz(path, Golden(feed.inputs, outputs, allowed).arrays())
        return path

    inputs = {
        "graph": exported.folder.name,
        "targets": [[part.target, dict(part.given), part.model.folder.name, dict(part.options), dict(part.safe)] for part in compiled],
        "data": job.fingerprint,
    }
    packages = [name for part in compiled for name in plugins.find(Target, part.target)(**part.given).versions()]
    made = job.stage("golden", inputs, make, packages=packages, on_this_machine=True)
    with np.load(made.main, allow_pickle=False) as file:
        return Golden.of_arrays(dict(file))
