"""A gate: a branch runs only where the answer without it is not sure enough. What a recipe wishes, and what a bundle carries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from edgemm.contracts import plain_values

CRITERIA = ("confidence", "margin", "entropy")
"""How sure an answer is; each from 0 to 1, the larger the surer."""
SHADOW = 0.1
"""Share of the skipped calls that run all the same, where nobody says another."""
EXACT, APPROXIMATE = "exact", "approximate"


@dataclass(frozen=True)
class Wish:
    """One gate of a recipe.

    Attributes:
        run: The input whose branch may be skipped.
        after: Inputs that must be there before it is judged.
        loss_points: Most accuracy that it may cost any guarded output.
        every_s: It runs at least so often, whatever the others say; None = only where they are unsure.
        shadow: Share of the skipped calls that run all the same, to see what skipping costs.
        next_rows: The next set of so many rows keeps the budget by itself too; None = as many as val has, 0 = only all data together.
    """

    run: str
    after: tuple[str, ...]
    loss_points: float
    every_s: float | None = None
    shadow: float = SHADOW
    next_rows: int | None = None

    def plain(self) -> dict[str, Any]:
        """As a recipe says it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Gate:
    """One gate of a bundle on one target, as ``manifest.json`` holds it.

    Attributes:
        run: The input whose branch it keeps from running.
        after: Inputs whose answer decides; all must be there.
        criterion: One of ``CRITERIA``, the least over the heads that have labels.
        threshold: From here on the answer without the branch is taken.
        loss_points: What the recipe allows.
        lost_points: What val lost in the head that lost most.
        bound_points: Upper 95% bound of that, over the heads.
        bound: ``exact``, or ``approximate`` where a head is not right or wrong row by row.
        skipped: Share of val's rows on which the branch did not run, 0 to 1.
        rows: Rows of val behind all that.
        limit: Share of the shadowed calls that may disagree before the gate opens by itself, 0 to 1.
        every_s, shadow: As the recipe has them.
        next_rows: Rows of a next set that keeps the budget by itself; 0 = nothing is said of one.
    """

    run: str
    after: tuple[str, ...]
    criterion: str
    threshold: float
    loss_points: float
    lost_points: float
    bound_points: float
    bound: str
    skipped: float
    rows: int
    limit: float
    every_s: float | None = None
    shadow: float = SHADOW
    next_rows: int = 0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {key: value for key, value in plain_values.plain(self).items() if value is not None}


@dataclass(frozen=True)
class GateLoss:
    """What a head, or one label of it, loses at a gate's threshold, in points (a regression's: hundredths of its spread).

    Attributes:
        label: None = all rows.
        bound: Upper bound at the error allowed.
    """

    output: str
    points: float
    bound: float
    rows: int
    label: str | None = None


@dataclass(frozen=True)
class GateFound:
    """What was found about a gate on a target, for the report.

    Attributes:
        threshold: None where no threshold keeps the budget: the branch runs always.
        skipped: Share of val's rows on which it does not run.
        too_few: ``output: label`` -> its rows, where these are too few to hold the label by itself.
        next_rows: Rows of a next set that keeps the budget by itself; 0 = nothing is said of one.
        skipped_for_all: What would be skipped if that were not asked.
        branch_ms, rest_ms: What the branch takes here, and what judging takes; None where nobody timed them.
    """

    target: str
    run: str
    after: Sequence[str]
    criterion: str
    threshold: float | None
    loss_points: float
    skipped: float
    rows: int
    bound: str = EXACT
    lost: Sequence[GateLoss] = ()
    too_few: Mapping[str, int] = field(default_factory=dict)
    branch_ms: float | None = None
    rest_ms: float | None = None
    next_rows: int = 0
    skipped_for_all: float = 0.0


def read(rows: Any) -> list[Gate]:
    """Gates as a manifest holds them.

    Raises:
        ValueError, TypeError, AttributeError: They cannot be such.
    """
    gates = [plain_values.read(Gate, row) for row in rows]
    for gate in gates:
        numbers = [getattr(gate, part.name) for part in fields(Gate) if part.type in ("float", "int")]
        if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise ValueError("a number of a gate is none")
        if gate.criterion not in CRITERIA:
            raise ValueError(f"there is no criterion '{gate.criterion}'")
        if not gate.after or gate.run in gate.after or not 0 < gate.limit <= 1 or not 0 <= gate.shadow <= 1:
            raise ValueError(f"the gate of '{gate.run}' cannot be kept")
    return gates


def in_order(afters: Mapping[str, Sequence[str]]) -> list[str]:
    """Gated inputs, each behind those gated ones it comes after, else as they stand there; those of a circle are left out."""
    ordered: list[str] = []
    while ready := [name for name, after in afters.items() if name not in ordered and not _waits(after, afters, ordered)]:
        ordered.append(ready[0])
    return ordered


def _waits(after: Sequence[str], gated: Iterable[str], ordered: Sequence[str]) -> bool:
    return any(name in gated and name not in ordered for name in after)


def judges(run: str, order: Sequence[str], inputs: Sequence[str]) -> tuple[str, ...]:
    """The inputs whose answer decides about ``run``: all that are never skipped, and those whose gates come before."""
    later = order[order.index(run) :]
    return tuple(name for name in inputs if name not in later)
