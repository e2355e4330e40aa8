"""From what the user asks for (a ratio, multiply-accumulates, latency) to the channels that go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgemm.errors import PruneError
from edgemm.workshop.pruning.atoms import IS_OUTPUT
from edgemm.workshop.pruning.branchwise import TIMED_PARTS, branchwise
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.layers import Structure
from edgemm.workshop.pruning.planning import Ranking, Rounding, Scores, by_ratio, even, rank, unreachable, until

MEASUREMENTS = 6
"""Latency measurements beside the first: each exports and compiles. Halving the interval six times leaves 1.6% of it."""
CLOSE = 0.02
"""A latency this share below the target is near enough to stop measuring: p50 of one candidate varies as much."""


@dataclass(frozen=True)
class Goal:
    """What is asked for.

    Attributes:
        ratio, macs, latency: Share to remove; one of them, or none where ``branches`` says all.
        branches: Branch -> share to remove there: of channels where ``ratio`` or nothing else is given, else of its
            multiply-accumulates.
        spread: How layers share ``macs`` and ``latency``: ``even``, ``ranked`` by score for cost, or even inside of ``branches`` of which
            each has its own share.
    """

    ratio: float | None = None
    macs: float | None = None
    latency: float | None = None
    branches: Mapping[str, float] | None = None
    spread: str = "even"

    def after(self, rounds: int, of: int) -> Goal:
        """What is to be gone after so many rounds of all, each relative to the model as it was before the first."""

        def share(value: float | None) -> float | None:
            return value if value is None or value >= 1 else 1 - (1 - value) ** (rounds / of)  # 1 is refused where a layer is emptied

        branches = {name: share(value) or 0.0 for name, value in (self.branches or {}).items()}
        return Goal(share(self.ratio), share(self.macs), share(self.latency), branches, self.spread)


@dataclass(frozen=True)
class WholeModel:
    """The model before the first of several rounds: what the shares of a plan are of.

    Attributes:
        widths: Layer -> channels.
        macs: Branch -> multiply-accumulates.
        latency: As it was measured; None where nothing is.
    """

    widths: Mapping[str, int]
    macs: Mapping[str, float]
    latency: float | None = None

    @classmethod
    def of(cls, found: Structure, latency: float | None = None) -> WholeModel:
        """A model as it stands."""
        return cls({layer.name: layer.width for layer in found.layers}, Costs(found).macs(), latency)


def plan_removal(
    goal: Goal,
    found: Structure,
    scores: Scores,
    rounding: Rounding,
    timed: Callable[[list[int]], float] | None = None,
    harm: Callable[[list[int]], float] | None = None,
    whole: WholeModel | None = None,
) -> list[int]:
    """The channels to remove.

    Args:
        timed: Removed channels -> measured latency; only for a latency target.
        harm: Removed channels -> what the model loses; only for the spread ``branches``.
        whole: The model that the plan's shares are of, where earlier rounds took some already; None = the one that was found.

    Raises:
        PruneError: The target cannot be reached, or a layer would be empty.
    """
    overrides = dict(goal.branches or {})
    if goal.macs is None and goal.latency is None:
        return by_ratio(found, scores, rounding, lambda branch: overrides.get(branch, goal.ratio or 0.0), whole.widths if whole else {})
    costs, target_share = Costs(found), goal.macs if goal.macs is not None else goal.latency
    assert target_share is not None  # one of both
    first = whole or WholeModel.of(found)

    def rankings_of(branches: Sequence[str], removed: float) -> list[Ranking]:
        if goal.spread == "ranked":
            return [rank(found, costs, scores, one, branches) for one in rounding.floors(removed)]
        lowest = replace(rounding, floor=rounding.floor or 0.0)
        if goal.spread == "branches" and len(branches) > 1:
            assert harm is not None  # the caller has data where each branch has its own share
            each = {name: even(found, scores, lowest, [name]) for name in branches}
            if timed is not None:
                return [branchwise(each, harm, timed, parts=TIMED_PARTS)]
            return [branchwise(each, harm, costs.total_macs)]
        return [even(found, scores, lowest, branches)]

    fixed = [root for branch, share in overrides.items() for root in _branch_macs(branch, share, found, costs, first, rankings_of)]
    rankings = rankings_of([name for name in found.parts.names() if name not in overrides], target_share)
    if goal.macs is not None:
        before = sum(first.macs.values())
        chosen = _first_reaching(rankings, lambda roots: costs.total_macs([*fixed, *roots]) / before, 1 - goal.macs)
        if isinstance(chosen, float):
            raise unreachable("macs_ratio", goal.macs, 1 - chosen, found)
        return [*fixed, *chosen]
    assert timed is not None  # the caller has a target where latency is asked for
    return _by_latency(goal.latency or 0.0, found, fixed, rankings, timed, first.latency)


def _first_reaching(rankings: Sequence[Ranking], measure: Callable[[list[int]], float], target: float) -> list[int] | float:
    """What to remove by the first ranking that reaches the target; else the least that any leaves."""
    for ranking in rankings:
        removed = until(ranking, measure, target)
        if removed is not None:
            return removed
    return min(measure(ranking.first(len(ranking.steps))) for ranking in rankings)


def _branch_macs(
    branch: str,
    share: float,
    structure: Structure,
    costs: Costs,
    first: WholeModel,
    rankings_of: Callable[[Sequence[str], float], list[Ranking]],
) -> list[int]:
    """Remove a share of one branch's multiply-accumulates."""
    before = first.macs.get(branch, 0.0)
    if not share or not before:
        return []
    chosen = _first_reaching(rankings_of([branch], share), lambda roots: costs.macs(roots).get(branch, 0.0) / before, 1 - share)
    if isinstance(chosen, float):
        raise unreachable(f"branches.{branch}", share, 1 - chosen, structure)
    return chosen


def _by_latency(
    share: float,
    structure: Structure,
    fixed: list[int],
    rankings: Sequence[Ranking],
    timed: Callable[[list[int]], float],
    first: float | None,
) -> list[int]:
    """Bisect a ranking by measured latency; the shortest prefix seen that meets the target. A lower floor only where it has to be."""
    now = timed([])
    whole = now if first is None else first
    target, least = whole * (1 - share), now
    if least <= target:
        return fixed
    for ranking in rankings:
        least = min(least, timed([*fixed, *ranking.first(len(ranking.steps))]))
        if least <= target:
            break
    else:
        raise unreachable("latency_ratio", share, max(0.0, 1 - least / whole), structure)
    low, high = 0, len(ranking.steps)
    for _ in range(MEASUREMENTS - 1):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        latency = timed([*fixed, *ranking.first(middle)])
        if latency <= target:
            high = middle
            if latency >= target * (1 - CLOSE):
                break
        else:
            low = middle
    return [*fixed, *ranking.first(high)]


def check_layers(goal: Goal, found: Structure, rounding: Rounding) -> None:
    """Raises PruneError where shares of channels would empty a layer, be it in the last of several rounds."""
    if goal.macs is None and goal.latency is None:
        plan_removal(goal, found, {}, rounding)


def check(goal: Goal) -> None:
    """Raises PruneError where not exactly one target is given, or one is no share."""
    shares = {"ratio": goal.ratio, "macs_ratio": goal.macs, "latency_ratio": goal.latency}
    named = [name for name, value in shares.items() if value is not None]
    if len(named) > 1:
        raise PruneError(
            f"{' and '.join(named)} are given; only one of them can be the target.",
            fix="keep one; branches may stand beside it and override it for single branches.",
        )
    if not named and not goal.branches:
        raise PruneError("nothing says how much to prune.", fix="give ratio, macs_ratio or latency_ratio, or branches: {image: 0.5}.")
    for name, value in shares.items():
        if value is not None and not 0 < value < 1 and not (name == "ratio" and value >= 1):  # by_ratio names the layer that it empties
            raise PruneError(f"{name} is {value:g}.", why="it is the share to remove.", fix="write a number above 0 and below 1.")
    for name, value in (goal.branches or {}).items():
        if value < 0 or (value >= 1 and named and named != ["ratio"]):
            raise PruneError(f"branches.{name} is {value:g}.", why="it is the share to remove.", fix="write a number from 0 to below 1.")


def untouched(goal: Goal, found: Structure, left: Mapping[str, int]) -> list[str]:
    """A sentence for each branch that was named, or has layers that ``ratio`` means, and kept all their channels; and for each of which
    none but outputs could go.

    Args:
        goal: What was asked for, its branches resolved.
        found: The model as it was.
        left: Layer -> channels that it kept; layers that cannot be pruned are not in it.
    """
    asked = goal.ratio or goal.macs or goal.latency or 0.0
    of_all = asked if goal.macs is None and goal.latency is None else 0.0
    sentences = []
    for branch in found.parts.names():
        own = [layer for layer in found.layers if layer.branch == branch]
        is_stuck = not own and any(whole.branch == branch and whole.reason != IS_OUTPUT for whole in found.whole)
        share = (goal.branches or {}).get(branch, asked if is_stuck else of_all if own else 0.0)
        if share and all(left[layer.name] == layer.width for layer in own):
            sentences.append(f"nothing of '{branch}' was removed: {_why(branch, found) if not own else _too_little(share)}.")
    return sentences


def _too_little(share: float) -> str:
    return f"{share:g} of its layers' channels is less than half a group of those kept together; lower round_to"


def _why(branch: str, structure: Structure) -> str:
    reasons = sorted({f"'{whole.name}': {whole.reason}" for whole in structure.whole if whole.branch == branch})
    return "; ".join(reasons) or "it has no layer whose channels can go"
