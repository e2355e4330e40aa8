"""From the float graph to what one target runs: quantized in its numerics, proved against the graph, tuned on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import metrics, plugins
from edgemm._bundle.golden import run as run_golden
from edgemm._bundle.golden import stack, tolerance
from edgemm.artifact import Artifact, write_json
from edgemm.bundle import Golden, write_npz
from edgemm.errors import ParityError
from edgemm.probes._schedule import Candidate, predict
from edgemm.probes._tuning import tune
from edgemm.recipe import Recipe
from edgemm.stages import Job, quantize, samples
from edgemm.targets._protocol import Target

TUNING_ROWS = 1000
"""Rows of val on which runtime options must answer as well as the safe ones."""


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


def compile_for(job: Job, exported: Artifact, recipe: Recipe, name: str, *, start: Artifact | None = None) -> Compiled:
    """Quantize for a target, prove that it computes what the graph says, and choose runtime options by measurement.

    A branch whose INT8 the target computes wrongly is left in float there, and the result says so.

    Args:
        exported: The float graph, which everything is proved against.
        start: What the graph steps work on where it is another one: with the Q/DQ that ``qat`` trained.

    Raises:
        ParityError: The target computes the graph wrongly, also with the guilty branch in float.
    """
    given = dict(recipe.targets[name])
    target = plugins.find(Target, name)(**given)
    forbid = forbidden(recipe)
    safe = target.choices(forbid=forbid)[0]
    kept: list[str] = []
    while True:
        model = quantize(job, start or exported, recipe.graph_steps(), name, keep_float=kept)
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
        holds = _holds(job, model, name, given, forbid)
        found = tune(name, model.main, samples(job, 1)[0], forbid=forbid, accuracy_holds=holds, target_options=given, progress=job.show)
        path = scratch / "tuned.json"
        write_json(path, {"options": found.options, "table": [asdict(choice) for choice in found.table]})
        return path

    versions = plugins.find(Target, name)(**given).versions()
    inputs = {"model": model.folder.name, "target": [name, dict(given)], "forbid": sorted(forbid), "data": job.fingerprint}
    made = json.loads(job.stage(f"tune {name}", inputs, make, packages=versions, on_this_machine=True).main.read_text(encoding="utf-8"))
    return made["options"], made["table"]


def _holds(
    job: Job, model: Artifact, name: str, given: Mapping[str, Any], forbid: frozenset[str]
) -> Callable[[dict[str, Any]], bool] | None:
    """Says of runtime options whether they answer val as well as the safe ones: no loss that the paired interval shows.

    None where val has no rows, or no output has a metric that can be lost.
    """
    guarded = {key: output for key, output in job.card.outputs.items() if metrics.guarded(output) not in ("sqnr_db", "recall_at_1")}
    if job.data is None or "val" not in job.dataset.splits() or not guarded:
        return None
    safe = plugins.find(Target, name)(**given).choices(forbid=forbid)[0]

    @cache
    def answers(options: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        candidate = Candidate(f"{name} on val", "bundle", name, model.main, json.loads(options), target_options=given)
        return predict(candidate, str(job.data), job.card, "val", limit=TUNING_ROWS, skip_bad_rows=job.skip_bad_rows)

    def holds(options: dict[str, Any]) -> bool:
        if options == safe:
            return True
        (before, truth), (after, _) = answers(json.dumps(safe)), answers(json.dumps(options))
        lost = [metrics.drop(output, before[key], after[key], truth[key]) for key, output in guarded.items() if key in truth]
        return all(score.low is None or score.low <= 0 for score in lost)

    return holds


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
