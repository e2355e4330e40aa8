"""Who said what: the exact Shapley shares of inputs in an answer, of the answers to every subset of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np

MOST_INPUTS = 5
"""Of five inputs there are 31 subsets; exact shares of more would take hours."""


def shapley(values: Mapping[tuple[str, ...], np.ndarray], inputs: Sequence[str]) -> np.ndarray:
    """What each input adds to a value, averaged over all orders in which inputs may come (Shapley 1953): (rows, inputs).

    They add up to the value of all inputs less that of none.

    Args:
        values: Subset, in the order of ``inputs`` -> (rows,); every subset is there, the empty one too.
    """
    count = len(inputs)
    shares = np.zeros((len(next(iter(values.values()))), count))
    for place, name in enumerate(inputs):
        others = [other for other in inputs if other != name]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for subset in combinations(others, size):
                with_it = tuple(other for other in inputs if other in subset or other == name)
                shares[:, place] += weight * (values[with_it] - values[subset])
    return shares


def of_decision(chances: Mapping[tuple[str, ...], np.ndarray], inputs: Sequence[str]) -> np.ndarray:
    """The shares in the chance of the label that all inputs together decide for: (rows, inputs).

    Args:
        chances: Subset -> (rows, labels). Of no input the value is what is said of that label on average.
    """
    whole = chances[tuple(inputs)]
    decided = whole.argmax(-1)
    rows = np.arange(len(whole))
    values: dict[tuple[str, ...], np.ndarray] = {subset: chance[rows, decided] for subset, chance in chances.items()}
    return shapley({**values, (): whole.mean(0)[decided]}, inputs)
