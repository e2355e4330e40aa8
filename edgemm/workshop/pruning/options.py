"""Which options of pruning cannot be, or contradict each other; all that can be said before a model is looked at."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.contracts.step import Context
from edgemm.errors import PruneError
from edgemm.workshop.pruning import targets
from edgemm.workshop.pruning.scores import check_data
from edgemm.workshop.pruning.targets import Plan
from edgemm.workshop.training.plan import Plan as Training


def check(
    ctx: Context,
    *,
    ratio: float | None,
    branches: Mapping[str, float] | None,
    macs_ratio: float | None,
    latency_ratio: float | None,
    spread: str,
    criterion: str,
    round_to: int,
    floor: float | None,
    samples: int,
    rounds: int,
    recovery_epochs: int,
    recovery_learning_rate: float,
) -> None:
    """Raises PruneError or TrainError naming the first option of the step ``prune`` that cannot be."""
    targets.check(Plan(ratio, macs_ratio, latency_ratio, branches, spread))
    check_data(criterion, ctx.dataset)
    wanted = {
        "round_to": (round_to, round_to >= 1, "at least 1"),
        "floor": (floor, floor is None or 0 <= floor <= 1, "a number from 0 to 1"),
        "samples": (samples, samples >= 1, "at least 1; 512 is usual"),
        "rounds": (rounds, rounds >= 1, "at least 1"),
        "recovery_epochs": (recovery_epochs, recovery_epochs >= 0, "a whole number of at least 0"),
    }
    for name, (value, is_right, words) in wanted.items():
        if not is_right:
            raise PruneError(f"{name} is {value}.", fix=f"write {words}.")
    if floor is not None and macs_ratio is None and latency_ratio is None:
        raise PruneError(
            "floor stands beside shares of channels, and says nothing there.",
            why="it bounds what macs_ratio and latency_ratio take from a layer; ratio and branches alone say themselves what is left.",
            fix="leave floor out.",
        )
    if recovery_epochs:
        _check_recovery(ctx, recovery_epochs, recovery_learning_rate)


def _check_recovery(ctx: Context, epochs: int, learning_rate: float) -> None:
    if ctx.dataset is None or not ctx.dataset.count("train"):
        raise PruneError(
            "recovery_epochs needs training data.",
            why="no dataset was given, or it has no train split.",
            fix="give data with -d, or set it to 0.",
        )
    Training(epochs=epochs, learning_rate=learning_rate).check("recovery_")
