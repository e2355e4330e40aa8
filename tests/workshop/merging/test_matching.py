"""Which tokens become one: as the paper's loops say, for each row by itself, and never more than half."""

import numpy as np
import pytest
import torch

from edgemm.workshop.merging.matching import assignment, most


def by_loops(keys: np.ndarray, count: int, protected: int) -> list[set[int]]:
    """Groups of tokens, in no order."""
    free = keys[protected:] / np.linalg.norm(keys[protected:], axis=1, keepdims=True)
    ours, others = range(0, len(free), 2), range(1, len(free), 2)
    likeness = {(i, j): float(free[i] @ free[j]) for i in ours for j in others}
    best = {i: max(others, key=lambda j: likeness[i, j]) for i in ours}
    going = sorted(ours, key=lambda i: -likeness[i, best[i]])[:count]
    groups = {index: {index + protected} for index in range(len(free)) if index not in going}
    for index in going:
        groups[best[index]].add(index + protected)
    return [{index} for index in range(protected)] + list(groups.values())


@pytest.mark.parametrize(("tokens", "count", "protected"), [(17, 4, 1), (16, 8, 0), (21, 3, 5), (9, 1, 2)])
def test_the_most_alike_of_every_second_token_become_one(tokens, count, protected):
    keys = np.random.default_rng(tokens).normal(size=(3, tokens, 12)).astype(np.float32)
    matrix = assignment(torch.from_numpy(keys), count, protected).numpy()
    assert matrix.shape == (3, tokens - count, tokens)
    assert (matrix.sum(1) == 1).all()
    for row, expected in zip(matrix, (by_loops(row, count, protected) for row in keys), strict=True):
        groups = [frozenset(np.flatnonzero(line)) for line in row]
        assert set(groups) == {frozenset(group) for group in expected}
        assert groups[:protected] == [frozenset([index]) for index in range(protected)]


def test_tokens_that_are_all_alike_still_go_in_the_number_asked():
    matrix = assignment(torch.ones(2, 10, 4), 3, 0)
    assert matrix.shape == (2, 7, 10)
    assert matrix.sum(1).eq(1).all()


def test_at_most_every_second_token_goes_after_each_layer():
    assert most(197, 1, 12) == 16
    assert most(50, 1, 12) == 4
    assert most(5, 1, 2) == 2
    assert most(2, 1, 4) == 0
