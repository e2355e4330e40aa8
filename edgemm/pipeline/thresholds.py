"""From which score on a label counts: fitted to val after compression, for each target: INT8 moves scores where mAP does not see it."""

from __future__ import annotations

from collections.abc import Sequence

from edgemm.contracts import task as tasks
from edgemm.contracts.answers import Answers
from edgemm.pipeline import answers
from edgemm.pipeline.compiling import Compiled
from edgemm.pipeline.job import Job
from edgemm.store.artifact import Artifact

Thresholds = dict[str, dict[str, float]]
"""Output -> label -> score."""
TOLD = 12  # labels of an output in one sentence
DECIMALS = 4  # what a threshold is kept to: closer together no two scores mean something


def fitted(job: Job, part: Compiled) -> Thresholds:
    """Of a target's answers to the rows that decide; {} where no output has thresholds, or no row decides.

    Args:
        job: After the torch steps.
    """
    split = _split(job)
    if not split:
        return {}
    return _of(job, answers.answers(job, part.candidate(), part.model.folder.name, split, limit=answers.DECISION_ROWS))


def notes(job: Job, exported: Artifact, after: Job, compiled: Sequence[Compiled]) -> list[str]:
    """What they are on every target, beside those of the original.

    Args:
        job, exported: The original's.
        after: The run after the torch steps.
    """
    split = _split(job)
    if not split:
        return []
    before = _of(job, answers.original_answers(job, exported, split, limit=answers.DECISION_ROWS))
    return [
        f"{part.target}: '{output}' counts from these scores on, fitted to {split} (the original's): {_listed(now, before[output])}."
        for part in compiled
        for output, now in fitted(after, part).items()
    ]


def _split(job: Job) -> str:
    """The rows that decide, where an output has thresholds; else ""."""
    having = any(task.has_thresholds for task in tasks.tasks(job.card).values())
    return answers.decision_split(job.dataset)[0] if having and job.data is not None else ""


def _of(job: Job, answered: Answers) -> Thresholds:
    found: Thresholds = {}
    for name, task in tasks.tasks(job.card).items():
        if task.has_thresholds and name in answered.truth and set(task.reads) <= answered.predictions.keys():
            own = task.thresholds(answered.predictions, answered.truth[name])
            found[name] = {label: round(float(score), DECIMALS) for label, score in own.items()}
    return found


def _listed(now: dict[str, float], before: dict[str, float]) -> str:
    more = f" and {len(now) - TOLD} more" if len(now) > TOLD else ""
    return ", ".join(f"{label} {score:.2g} ({before[label]:.2g})" for label, score in [*now.items()][:TOLD]) + more
