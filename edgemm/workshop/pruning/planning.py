"""How many channels of each layer go: by ratio, or by rank until a target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgemm.errors import PruneError
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.layers import Layer, Structure

Scores = Mapping[int, float]
"""Channel -> how much the model would lose without it."""


RECURRENT = 4
"""Widths of recurrent layers are multiples of so many times ``round_to``: of 32. OpenVINO's GRU in bf16 takes 36 us with 64 channels, 48
with 40 and 56 with 56; 61 with 96, 76 with 80 (25 steps, one thread of a Xeon with AMX); LSTM alike.
"""


@dataclass(frozen=True)
class Rounding:
    """In which numbers channels may be kept.

    Attributes:
        multiple: Widths are multiples of it where the layer is at least twice as wide, of ``RECURRENT`` times it in recurrent layers.
        floor: Least share of a layer that ranking leaves; None = ``floors`` chooses.
    """

    multiple: int = 8
    floor: float | None = None

    def floors(self, removed: float) -> list[Rounding]:
        """The same with the floors to try, highest first, when a share of the multiply-accumulates is to be removed.

        If all layers kept the same share it would be the root of what is left; ranking may go to 0.7 of that, and lower only where
        the target is not met otherwise. Ranking alone cut single layers to a quarter, and lost 5 points on val against an equal cut
        (spoiled digits, 3 epochs of recovery, one seed).
        """
        if self.floor is not None:
            return [self]
        return [Rounding(self.multiple, part * math.sqrt(1 - removed)) for part in (0.7, 0.5, 0.35, 0.2, 0.1)]

    def unit(self, layer: Layer) -> int:
        """Channels are kept in multiples of this; in narrow layers of the largest power of two in a quarter of the width."""
        multiples = [self.multiple * RECURRENT, self.multiple] if layer.recurrent else [self.multiple]
        units = [multiple // math.gcd(multiple, layer.numbers) for multiple in multiples]
        return next((unit for unit in units if layer.width >= 2 * unit), 2 ** int(math.log2(max(1, layer.width // 4))))

    def least(self, layer: Layer) -> int:
        """Fewest channels that ranking may leave."""
        unit = self.unit(layer)
        return min(layer.width, unit * max(1, math.ceil((self.floor or 0.0) * layer.width / unit)))

    def nearest(self, layer: Layer, wanted: float) -> int:
        """The allowed count nearest to ``wanted``, at least one unit."""
        unit = self.unit(layer)
        return min(layer.width, max(unit, unit * round(wanted / unit)))


def by_ratio(
    found: Structure, scores: Scores, rounding: Rounding, ratio_of: Callable[[str], float], widths: Mapping[str, int] | None = None
) -> list[int]:
    """Remove the same share of every layer of a branch: the channels with the lowest scores.

    Args:
        ratio_of: Branch -> share of the channels to remove.
        widths: Layer -> channels that the share is of, where some are gone already; those it has now for layers not named.

    Raises:
        PruneError: A layer would have none left; names it and the largest ratio that is possible.
    """
    removed: list[int] = []
    for layer in found.layers:
        ratio, width = ratio_of(layer.branch), (widths or {}).get(layer.name, layer.width)
        if _empties(width, ratio):
            raise PruneError(
                f"ratio {ratio:g} would empty layer '{layer.name}' of branch '{layer.branch}', which has {width} channels.",
                why="a layer keeps at least one channel.",
                fix=_largest(layer, found, rounding, ratio_of),
            )
        keep = rounding.nearest(layer, width * (1 - ratio)) if ratio else layer.width
        removed += lowest(layer, scores, layer.width - keep)
    return removed


def _empties(width: int, ratio: float) -> bool:
    """Whether less than half a channel would be left."""
    return ratio > 0 and width * (1 - ratio) < 0.5


def _largest(layer: Layer, structure: Structure, rounding: Rounding, ratio_of: Callable[[str], float]) -> str:
    """The largest ratio, in hundredths, that empties none of the pruned layers, and what it leaves of ``layer``."""
    pruned = [one for one in structure.layers if ratio_of(one.branch)]
    most = next(number / 100 for number in range(99, -1, -1) if not any(_empties(one.width, number / 100) for one in pruned))
    kept = rounding.nearest(layer, layer.width * (1 - most))
    return (
        f"the largest possible ratio is {most:g}, which leaves {kept} of its channels: widths are kept in groups of {rounding.unit(layer)}."
    )


def lowest(layer: Layer, scores: Scores, count: int) -> list[int]:
    """The ``count`` channels with the lowest scores."""
    return sorted(layer.roots, key=lambda root: (scores.get(root, 0.0), root))[:count]


@dataclass(frozen=True)
class Ranking:
    """All channels that may go, in the order in which they go.

    Attributes:
        steps: One rounding unit of a layer each; removing a prefix of them is a plan.
    """

    steps: tuple[tuple[int, ...], ...]

    def first(self, count: int) -> list[int]:
        return [root for step in self.steps[:count] for root in step]


def even(found: Structure, scores: Scores, rounding: Rounding, branches: Sequence[str] | None = None) -> Ranking:
    """Order the units of all layers so that every prefix takes nearly the same share of each, the lowest scores first.

    Args:
        branches: Only layers of these.
    """
    steps = [
        (end / layer.width, layer.name, tuple(order[start:end]))
        for layer in found.layers
        if branches is None or layer.branch in branches
        for order in [lowest(layer, scores, layer.width)]
        for start, end in pairwise(_cuts(layer, rounding))
    ]
    return Ranking(tuple(step for _, _, step in sorted(steps, key=lambda entry: entry[:2])))


def _cuts(layer: Layer, rounding: Rounding) -> list[int]:
    """Counts of removed channels that leave allowed widths, 0 first."""
    unit = rounding.unit(layer)
    return [0, *range(layer.width % unit or unit, layer.width - rounding.least(layer) + 1, unit)]


def rank(found: Structure, costs: Costs, scores: Scores, rounding: Rounding, branches: Sequence[str] | None = None) -> Ranking:
    """Order the units of all layers by score for what they save.

    Both are taken relative to what the branch as a whole gives for what it costs, so that one with small gradients (sound beside
    pictures) is not wiped out.

    Args:
        branches: Rank only layers of these.
    """
    layers = [layer for layer in found.layers if branches is None or layer.branch in branches]
    price = {layer.name: costs.per_channel(layer) for layer in layers}
    worth = {layer.name: {root: scores.get(root, 0.0) / price[layer.name] for root in layer.roots} for layer in layers}
    means: dict[str, float] = {}
    for branch in {layer.branch for layer in layers}:
        own = [layer for layer in layers if layer.branch == branch]
        total_score = sum(scores.get(root, 0.0) for layer in own for root in layer.roots)
        means[branch] = total_score / sum(price[layer.name] * layer.width for layer in own) or 1.0
    steps: list[tuple[float, tuple[int, ...]]] = []
    for layer in layers:
        order = lowest(layer, scores, layer.width)
        high = 0.0
        for start, end in pairwise(_cuts(layer, rounding)):
            value = float(np.mean([worth[layer.name][root] for root in order[start:end]])) / means[layer.branch]
            high = max(high, value)  # a layer's units go in their own order
            steps.append((high, tuple(order[start:end])))
    return Ranking(tuple(step for _, step in sorted(steps, key=lambda entry: entry[0])))


def until(ranking: Ranking, measure: Callable[[list[int]], float], target: float) -> list[int] | None:
    """The shortest prefix with which ``measure`` is at most ``target``; None where none has it. ``measure`` falls as the prefix grows."""
    low, high = 0, len(ranking.steps)
    if measure(ranking.first(high)) > target:
        return None
    while low < high:
        middle = (low + high) // 2
        if measure(ranking.first(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return ranking.first(low)


def unreachable(what: str, asked: float, most: float, found: Structure) -> PruneError:
    """The error of a target that even the narrowest allowed layers miss."""
    largest = sorted(found.whole, key=lambda whole: -whole.width)[:3]
    left = "; ".join(f"'{whole.name}' ({whole.width}): {whole.reason}" for whole in largest)
    possible = math.floor(100 * most) / 100
    return PruneError(
        f"{what} {asked:g} cannot be reached.",
        why=f"with every layer as narrow as floor and round_to allow, {most:.2f} is removed. Left whole: {left or 'nothing'}.",
        fix=f"ask for at most {possible:g}, or lower floor or round_to." if possible else "leave it out: channels are not what this costs.",
    )
