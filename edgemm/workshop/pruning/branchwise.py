"""Each branch its own share: first goes what harms least for what it saves, as measured on each branch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from edgemm.workshop.pruning.planning import Ranking

PARTS = 8
"""Points of a branch's curve of harm, and of multiply-accumulates."""
TIMED_PARTS = 4
"""Points of its curve of latency: each exports, compiles and times."""
WORTH = 0.02
"""A branch of which all units together save less than this share of the whole is left for last: a measured latency varies as much."""

Point = tuple[int, float, float]
"""Units of a branch gone, what that saves, what it harms."""


def branchwise(
    rankings: Mapping[str, Ranking], harm: Callable[[list[int]], float], cost: Callable[[list[int]], float], *, parts: int = PARTS
) -> Ranking:
    """Merge the branches' own orders into one.

    Every branch is cut alone, an eighth (or fourth) of its units more each time, and both its harm and what it saves are measured. Pieces
    of the lower convex hull of the two are taken by harm per saving: within a branch the slope then only rises, so that its units keep
    their order. What saves next to nothing comes last.

    Args:
        rankings: Branch -> its units in the order in which they go.
        harm: Removed channels -> what the model loses.
        cost: Removed channels -> multiply-accumulates, or latency.
        parts: Points measured on each curve.
    """
    whole = cost([])
    pieces: list[tuple[float, tuple[tuple[int, ...], ...]]] = []
    for ranking in rankings.values():
        most = whole - cost(ranking.first(len(ranking.steps)))
        if most < WORTH * whole:
            pieces.append((float("inf"), ranking.steps))
            continue
        curve: list[Point] = [(0, 0.0, 0.0)]
        for count in sorted({round(len(ranking.steps) * part / parts) for part in range(1, parts + 1)} - {0}):
            removed = ranking.first(count)
            saved = most if count == len(ranking.steps) else whole - cost(removed)
            curve.append((count, max(curve[-1][1], saved), max(curve[-1][2], harm(removed))))  # a longer cut is no slower and no better
        pieces += [(_slope(a, b), ranking.steps[a[0] : b[0]]) for a, b in pairwise(_hull(curve))]
    pieces.sort(key=lambda piece: piece[0])  # stable: pieces of one branch stay in order
    return Ranking(tuple(step for _, steps in pieces for step in steps))


def _hull(curve: Sequence[Point]) -> list[Point]:
    """The points under which none lies."""
    kept: list[Point] = []
    for point in curve:
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(before: Point, after: Point) -> float:
    """Harm for what is saved between two points; infinite where nothing is."""
    saved = after[1] - before[1]
    return (after[2] - before[2]) / saved if saved > 0 else float("inf")
