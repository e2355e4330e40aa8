"""Each branch its own share: the order follows harm for saving."""

from itertools import pairwise

import numpy as np
import pytest

from edgemm.errors import PruneError
from edgemm.workshop.pruning.branchwise import _hull, branchwise
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.harm import Harm
from edgemm.workshop.pruning.planning import Ranking, Rounding
from edgemm.workshop.pruning.scores import magnitude
from edgemm.workshop.pruning.targets import Goal, plan_removal


def units(start: int, count: int) -> Ranking:
    return Ranking(tuple((start + number,) for number in range(count)))


def test_what_harms_least_for_what_it_saves_goes_first():
    weight = {**dict.fromkeys(range(100, 108), 1.0), **dict.fromkeys(range(200, 208), 4.0)}
    found = branchwise({"sound": units(100, 8), "picture": units(200, 8)}, len, lambda gone: 40 - sum(weight[root] for root in gone))
    assert [step[0] for step in found.steps] == [*range(200, 208), *range(100, 108)]


def test_branches_alternate_where_harm_rises():
    """Both save alike; the first's harm rises with the square of its units, the second's by five each."""

    def harm(gone):
        first = sum(root < 200 for root in gone)
        return first**2 + 5 * (len(gone) - first)

    order = [step[0] for step in branchwise({"first": units(100, 8), "second": units(200, 8)}, harm, lambda gone: 16 - len(gone)).steps]
    assert order[0] == 100
    assert order.index(102) < order.index(200) < order.index(207) < order.index(104)


def test_what_saves_next_to_nothing_comes_last_and_is_not_measured():
    asked = []

    def harm(gone):
        asked.append(tuple(gone))
        return 0.0 if gone[0] < 200 else 9.0

    found = branchwise({"free": units(100, 4), "dear": units(200, 4)}, harm, lambda gone: 100.0 - sum(root >= 200 for root in gone) * 9)
    assert [step[0] for step in found.steps] == [200, 201, 202, 203, 100, 101, 102, 103]
    assert all(gone[0] >= 200 for gone in asked)


def test_a_hull_has_rising_slopes():
    rng = np.random.default_rng(0)
    curve = [(0, 0.0, 0.0), *zip(range(1, 9), np.sort(rng.uniform(1, 9, 8)), np.sort(rng.uniform(1, 9, 8)), strict=True)]
    hull = _hull(curve)
    slopes = [(b[2] - a[2]) / (b[1] - a[1]) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes)
    assert hull[0] == curve[0]
    assert hull[-1] == curve[-1]


@pytest.fixture(scope="module")
def model(gated):
    return gated


@pytest.fixture(scope="module")
def found(gated_structure):
    return gated_structure


def test_the_target_is_met_and_the_branch_that_matters_less_loses_more(model, found):
    scores, costs = magnitude(model, found), Costs(found)
    branch_of = {root: layer.branch for layer in found.layers for root in layer.roots}

    def harm(removed):
        return sum(1.0 if branch_of[root] == "image" else 1e-3 for root in removed)

    removed = plan_removal(Goal(macs=0.1, spread="branches"), found, scores, Rounding(), harm=harm)
    assert costs.total_macs(removed) <= 0.9 * costs.total_macs()
    left = costs.macs(removed)
    before = costs.macs()
    assert left["audio"] / before["audio"] < left["image"] / before["image"]


def test_it_needs_rows_to_look_at(model, found):
    with pytest.raises(PruneError, match="spread 'branches' needs data"):
        Harm(model, found, None, samples=8, seed=0)
