"""How well vectors tell whether two samples are of the same person, voice or thing. numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_ROWS = 4000  # all pairs of so many are 64 MB
REJECTED = 0.01  # of the same, at which the false acceptances are told


@dataclass(frozen=True)
class Verification:
    """Of all pairs of rows.

    Attributes:
        same, different: How many pairs there are of one name, and of two.
        equal_error_rate: Where as many of the same are rejected as others accepted; ``threshold`` is the cosine at that.
        accepted_wrongly: Share of the different pairs that pass where one in a hundred of the same is rejected; ``strict`` is its cosine.
    """

    same: int
    different: int
    equal_error_rate: float
    threshold: float
    accepted_wrongly: float
    strict: float


def verification(vectors: np.ndarray, names: np.ndarray) -> Verification | None:
    """Hold every row against every other; None where there is no pair of one name, or of two.

    Args:
        vectors: (n, d), each of length 1; of more than ``MOST_ROWS`` evenly spread ones count.
        names: (n,), whose each is.
    """
    some = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_ROWS)).astype(int))
    vectors, names = vectors[some], names[some]
    one, other = np.triu_indices(len(vectors), k=1)
    cosines = (vectors @ vectors.T)[one, other]
    is_same = names[one] == names[other]
    if not is_same.any() or is_same.all():
        return None
    return of_pairs(cosines[is_same], cosines[~is_same])


def of_pairs(same: np.ndarray, different: np.ndarray) -> Verification:
    """The same of cosines of pairs."""
    same, different = np.sort(same), np.sort(different)
    levels = np.unique(np.concatenate([same, different]))
    rejected = np.searchsorted(same, levels, side="left") / len(same)
    accepted = 1 - np.searchsorted(different, levels, side="left") / len(different)
    at = int(np.argmin(np.abs(rejected - accepted)))
    strict = float(same[int(np.floor(REJECTED * len(same)))])
    wrongly = 1 - np.searchsorted(different, strict, side="left") / len(different)
    rate = float((rejected[at] + accepted[at]) / 2)
    return Verification(len(same), len(different), rate, float(levels[at]), float(wrongly), strict)


def recall(vectors: np.ndarray, names: np.ndarray, gallery: np.ndarray, known: np.ndarray, most: int, *, own: bool = False) -> float:
    """Share of the rows whose name is among the ``most`` nearest of a gallery; NaN where no row's name is known there.

    Args:
        own: The rows are the gallery's, and a row is not its own neighbour.
    """
    cosines = vectors @ gallery.T
    if own:
        np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
    counts = {name: int((known == name).sum()) - own for name in set(names.tolist())}
    asked = np.array([counts[name] > 0 for name in names.tolist()])
    if not asked.any():
        return float("nan")
    return float((known[nearest[asked]] == names[asked][:, None]).any(axis=1).mean())
