"""What is measured, and what it showed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm.contracts.deployment import Deployment
from edgemm.contracts.plain_values import plain
from edgemm.contracts.target import LayerRan
from edgemm.contracts.timing_parts import TimedTurn
from edgemm.errors import EdgemmError, MeasureError

COMMAND = "command"
"""Stands where a target's name does, for a program of any origin."""


@dataclass(frozen=True)
class Candidate:
    """One thing to measure.

    Attributes:
        name: Unique within a call.
        subject: original, float, default, bundle; compiled or foreign for what the user brings beside them.
        deployment: The model on its target; of target ``COMMAND`` the model is the words of a program, see ``any_program``.
        precision_asked: ``f32``, ``int8+bf16``; a candidate that runs less than it was asked is refused. ``default`` or None = anything.
        source: What it belongs to as the user knows it, such as a bundle's path; "" = ``name``.
    """

    name: str
    subject: str
    deployment: Deployment
    precision_asked: str | None = None
    source: str = ""

    @property
    def target(self) -> str:
        """Of its deployment."""
        return self.deployment.target

    @property
    def model(self) -> Path:
        """Of its deployment."""
        return self.deployment.model

    @property
    def is_command(self) -> bool:
        """Whether it is a program of any origin instead of a model on a target."""
        return self.deployment.target == COMMAND

    def opening(self, feed: Path | None) -> dict[str, Any]:
        """What a worker is told to open it."""
        whole = self.deployment if self.is_command else self.deployment.holding(self.model.resolve())
        return {
            "deployment": plain(whole),
            "feed": str(feed) if feed else None,
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        }


@dataclass(frozen=True)
class Timing:
    """What one candidate showed.

    Attributes:
        samples: Probe name -> its samples, one entry a round; rounds of all candidates belong together by position.
        launches: Which process took each round; rounds of one process share what its memory layout does to speed.
        load_ms: Opening the artifact, files in the page cache: the median of the launches.
        first_ms: The first call, the median of the launches.
        cold_start_ms: Launch of the process to the first result, one number a launch (files were in the page cache).
        precision_ran: What really ran.
        warm: Whether the warm-up became stable within its time.
        turns: All turns, also those that were done again.
        error: Why there is no number; everything else is empty then.
    """

    samples: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    launches: tuple[int, ...] = ()
    load_ms: float = 0.0
    first_ms: float = 0.0
    cold_start_ms: tuple[float, ...] = ()
    precision_ran: str = ""
    layers: tuple[LayerRan, ...] = ()
    warm: bool = False
    turns: tuple[TimedTurn, ...] = ()
    error: EdgemmError | None = None

    @property
    def samples_ms(self) -> tuple[Sequence[float], ...]:
        """Milliseconds of each call, one sequence a round."""
        return self.samples.get("latency", ())

    @property
    def peak_rss_mib(self) -> float:
        """Highest resident memory of the process."""
        return max((sample["peak"] for sample in self.samples.get("memory", ())), default=0.0)

    @property
    def disturbed(self) -> list[TimedTurn]:
        """Turns that count although they were disturbed, since they were so each time."""
        return [turn for turn in self.turns if turn.kept and turn.reasons]

    def require(self) -> Timing:
        """Itself, or its error raised."""
        if self.error is not None:
            raise self.error
        return self


def is_less(ran: str, asked: str | None) -> bool:
    """Whether something ran that is less precise than f32 and that nobody asked for. ``default`` asks for what the runtime likes.

    A layer asked for in ``int8`` may run in ``w8``: its weights are the same, its activations stay float.
    """
    fine = set((asked or "default").split("+")) | {"f32", "f64"}
    return "default" not in fine and bool(set(ran.split("+")) - fine - ({"w8"} if "int8" in fine else set()))


def lied(candidate: Candidate, ran: str) -> MeasureError:
    """The error of a candidate that ran less than it was asked."""
    return MeasureError(
        f"'{candidate.name}' was asked to run in {candidate.precision_asked} and ran {ran}.",
        why="its numbers would stand under a label that is not true.",
        fix="state the float precision (the target's float_options() force f32), or label it by what it runs.",
    )
