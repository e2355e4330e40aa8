"""What is made of the best: side by side in one benchmark, then one bundle, for which test is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgemm.box.devices.environment import environment
from edgemm.box.measuring import benchmark as measuring
from edgemm.box.measuring.findings import Findings
from edgemm.contracts.recipe import Recipe
from edgemm.contracts.report import Measurement, Report
from edgemm.contracts.report import read as read_report
from edgemm.contracts.search_parts import OnFront, Searched
from edgemm.contracts.task import guarded_metrics
from edgemm.pipeline import bundling
from edgemm.pipeline.job import Job
from edgemm.pipeline.reporting import title
from edgemm.pipeline.searching import trial
from edgemm.pipeline.searching.meters import SideBySide
from edgemm.store.artifact import Artifact


def bundle(job: Job, one: OnFront, recipe: Recipe) -> tuple[Artifact, Report]:
    """The bundle of one of the front, the whole way, and its report: the only look at test."""
    named = recipe.with_steps(recipe.entries(), f"{recipe.name}, {one.best.name}" if one.best.options else recipe.name)
    artifact = bundling.bundle(trial.seeded(job, one.best.seed), named)
    return artifact, read_report(artifact.sibling("report.json"))


def report(job: Job, searched: Searched, shown: SideBySide | None, of_best: Report | None, notes: Sequence[str]) -> Report:
    """The report of a search.

    Args:
        shown: The front in one benchmark; None where nothing could be timed.
        of_best: The report of the bundle, whose accuracy on test and budgets this one tells too.
    """
    details: dict[str, Any] = {"title": f"{title(job.card.path)}, searched", "search": searched}
    name = searched.front[0].best.name if searched.front else ""
    test = _on_test(of_best, name) if of_best is not None else []
    notes = [*notes, *job.notes]
    if shown is None:
        whole = Report(environment({}), test)
        whole = replace(whole, details=replace(whole.details, notes=notes, **details))
    else:
        found = Findings(test, details, [*notes, *shown.timed.warnings])
        whole = measuring.assemble([form for form in shown.candidates if form.name in shown.timed.forms], shown.timed, [found])
    return replace(whole, budgets=of_best.budgets if of_best is not None else ())


def _on_test(of_best: Report, name: str) -> list[Measurement]:
    """Accuracy of the bundle and of the original, as the bundle's report has it."""
    metrics = {*guarded_metrics(), "accuracy_drop_points"}
    return [
        replace(m, candidate=name) if m.subject == "bundle" else m
        for m in of_best.measurements
        if m.name in metrics and m.subject in ("bundle", "original") and m.output and not m.modalities and m.branch is None
    ]
