"""Words as vectors: the mean of what a text tower says of their prompts. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgemm.errors import CardError

ALIKE = 0.9999  # a cosine above it: nothing tells two words apart


def averaged(words: Mapping[str, Sequence[str]], vectors: np.ndarray, where: str) -> np.ndarray:
    """A vector of length 1 for each word.

    Args:
        words: Word -> its prompts.
        vectors: float32 (prompts, d), each of length 1, in the order of the words.
        where: The words stand, for errors.

    Raises:
        CardError: Two words have the same vector.
    """
    ends = np.cumsum([len(prompts) for prompts in words.values()])
    means = np.stack([group.mean(axis=0) for group in np.split(vectors, ends[:-1])])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    _require_different(tuple(words), means, where)
    return means.astype(np.float32)


def _require_different(labels: tuple[str, ...], vectors: np.ndarray, where: str) -> None:
    cosines = np.triu(vectors @ vectors.T, k=1)
    if float(cosines.max()) < ALIKE:
        return
    one, other = divmod(int(cosines.argmax()), len(labels))
    raise CardError(
        f"the words '{labels[one]}' and '{labels[other]}' in '{where}' have the same vector.",
        why="the text tower reads their prompts alike, so nothing will ever tell them apart.",
        fix="write other prompts for one of them, or one word for both.",
    )
