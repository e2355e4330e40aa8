"""How many channels go: rounding, floors, ranking, and counts that come true."""

import copy
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemm.errors import PruneError
from edgemm.workshop.pruning.costs import Costs
from edgemm.workshop.pruning.cutting import cut
from edgemm.workshop.pruning.layers import Layer
from edgemm.workshop.pruning.planning import Rounding, by_ratio, rank, until
from edgemm.workshop.pruning.scores import magnitude
from edgemm.workshop.pruning.targets import Goal, WholeModel, check, plan_removal


@pytest.fixture(scope="module")
def model(gated):
    return gated


@pytest.fixture(scope="module")
def found(gated_structure):
    return gated_structure


@pytest.fixture(scope="module")
def scores(model, found):
    return magnitude(model, found)


def layer(width: int, numbers: int = 1) -> Layer:
    return Layer("layer", "image", tuple(range(1, width + 1)), (), numbers)


@pytest.mark.parametrize(("width", "numbers", "unit"), [(64, 1, 8), (16, 1, 8), (12, 1, 2), (6, 1, 1), (2, 1, 1), (12, 64, 1), (8, 4, 2)])
def test_units_follow_the_width(width, numbers, unit):
    assert Rounding(8).unit(layer(width, numbers)) == unit


@pytest.mark.parametrize(("width", "unit"), [(128, 32), (96, 32), (64, 32), (48, 8), (16, 8), (12, 2)])
def test_a_recurrent_layer_keeps_multiples_of_32_where_it_is_wide_enough(width, unit):
    assert Rounding(8).unit(replace(layer(width), recurrent=True)) == unit


def test_the_state_of_a_recurrent_layer_is_known_as_such(found):
    assert [one.name for one in found.layers if one.recurrent] == ["encoders.audio.gru"]


@settings(max_examples=60, deadline=None)
@given(width=st.integers(2, 600), multiple=st.sampled_from([1, 4, 8, 16, 32]), floor=st.floats(0, 1), wanted=st.floats(0, 700))
def test_what_is_kept_fits_the_unit_and_is_never_nothing(width, multiple, floor, wanted):
    rounding, given_layer = Rounding(multiple, floor), layer(width)
    for keep in (rounding.nearest(given_layer, wanted), rounding.least(given_layer)):
        assert 1 <= keep <= width
        assert keep == width or keep % rounding.unit(given_layer) == 0
    assert rounding.least(given_layer) >= min(width, floor * width)


def test_counted_parameters_are_those_of_the_cut_model(model, found):
    rng = np.random.default_rng(0)
    removed = [root for one in found.layers for root in rng.choice(one.roots, one.width // 3, replace=False).tolist()]
    for gone in ((), removed):
        pruned = copy.deepcopy(model.module)
        cut(pruned, found.kept(gone))
        read = [tensor for name, tensor in (*pruned.named_parameters(), *pruned.named_buffers()) if name in found.parts.of_parameter]
        assert sum(Costs(found).parameters(gone).values()) == sum(tensor.numel() for tensor in read)


def test_counted_work_is_that_of_the_exported_graph(model, found, tmp_path):
    import onnx

    from edgemm.graph.branches import find_branches
    from edgemm.graph.costs import branch_costs
    from edgemm.workshop.models.fused import FusedModel
    from edgemm.workshop.models.onnx_export import export_onnx

    removed = [root for one in found.layers for root in one.roots[: one.width // 2]]
    beside: list[dict[str, float]] = []
    for gone in ([], removed):
        smaller = FusedModel(model.card, copy.deepcopy(model.module)).eval()
        cut(smaller.module, found.kept(gone))
        proto = onnx.load(export_onnx(smaller, tmp_path / "model.onnx"))
        counted, costs = Costs(found).macs(gone), branch_costs(proto, find_branches(proto, model.card))
        assert set(counted) | {"frontend:audio", "frontend:image"} == set(costs)
        beside.append({branch: cost.macs - counted.get(branch, 0) for branch, cost in costs.items()})
    for branch in ("image", "audio", "fusion", "head:event", "head:level"):
        assert beside[0][branch] == beside[1][branch] == pytest.approx(0, abs=1), branch
    assert beside[0]["frontend:audio"] == beside[1]["frontend:audio"] > 1e5  # log-mel, which is never pruned


def test_a_longer_prefix_of_the_ranking_costs_less(found, scores):
    costs = Costs(found)
    ranking = rank(found, costs, scores, Rounding(floor=0.25))
    macs = [costs.total_macs(ranking.first(count)) for count in range(0, len(ranking.steps) + 1, 3)]
    assert all(later <= earlier for earlier, later in pairwise(macs))
    assert len(set(ranking.first(len(ranking.steps)))) == len(ranking.first(len(ranking.steps)))


def test_every_branch_gives_and_none_is_wiped_out(found, scores):
    quiet = {
        root: score * (1e-6 if one.branch == "audio" else 1.0)
        for one in found.layers
        for root, score in scores.items()
        if root in one.roots
    }
    costs = Costs(found)
    removed = plan_removal(Goal(macs=0.5, spread="ranked"), found, quiet, Rounding())
    before, after = costs.macs(), costs.macs(removed)
    for branch in ("image", "audio"):
        assert 0.15 < after[branch] / before[branch] < 0.95, branch


def test_the_shortest_prefix_that_meets_the_target(found, scores):
    ranking = rank(found, Costs(found), scores, Rounding(floor=0.25))
    assert until(ranking, lambda roots: -len(roots), -10) == ranking.first(2)  # units of 8
    assert until(ranking, lambda roots: 1.0, 0.5) is None


def test_a_share_is_spread_over_rounds():
    goal = Goal(ratio=0.75, branches={"image": 0.36})
    first, last = goal.after(1, 2), goal.after(2, 2)
    assert first.ratio == pytest.approx(0.5)
    assert first.branches["image"] == pytest.approx(0.2)
    assert last.ratio == pytest.approx(0.75)
    assert last.branches["image"] == pytest.approx(0.36)


def test_a_share_of_the_channels_is_of_those_that_were_there_before_the_first_round():
    """Rounded anew each time, 32 channels stood at 24 for ever: 0.84 of 24 is nearer to 24 than to 16."""
    width = 32
    for number in range(1, 5):
        part = Goal(ratio=0.5).after(number, 4)
        found = SimpleNamespace(layers=[layer(width)])
        width -= len(by_ratio(found, {}, Rounding(8), lambda _, part=part: part.ratio, {"layer": 32}))
    assert width == 16


def test_a_round_takes_only_what_the_ones_before_left_to_take(found, scores):
    already = plan_removal(Goal(macs=0.5), found, scores, Rounding(4))
    now, whole = Costs(found).macs(already), Costs(found).macs()
    half = WholeModel({}, {name: macs * 2 for name, macs in whole.items()})  # as if a round had taken half of everything
    assert sum(now.values()) <= 0.5 * sum(whole.values())
    assert plan_removal(Goal(macs=0.5), found, scores, Rounding(4), whole=half) == []
    assert plan_removal(Goal(macs=0.1, branches={"image": 0.5}), found, scores, Rounding(4), whole=half) == []
    assert plan_removal(Goal(latency=0.5), found, scores, Rounding(4), timed=lambda _: 1.0, whole=WholeModel({}, whole, 2.0)) == []


def test_two_targets_are_one_too_many():
    with pytest.raises(PruneError, match="macs_ratio and latency_ratio are given"):
        check(Goal(macs=0.5, latency=0.5))


def test_a_floor_nobody_named_is_as_high_as_the_target_allows(found, scores):
    assert [one.floor for one in Rounding().floors(0.75)] == pytest.approx([0.35, 0.25, 0.175, 0.1, 0.05])
    assert Rounding(floor=0.3).floors(0.75) == [Rounding(floor=0.3)]
    for asked in (0.3, 0.5, 0.8):
        removed = set(plan_removal(Goal(macs=asked, spread="ranked"), found, scores, Rounding()))
        assert Costs(found).total_macs(removed) <= (1 - asked) * Costs(found).total_macs()
        left = min(1 - len(removed & set(one.roots)) / one.width for one in found.layers)
        assert left >= {0.3: 0.5, 0.5: 0.4, 0.8: 0.1}[asked]


def test_an_even_spread_meets_the_target_and_takes_the_same_share_of_every_layer(found, scores):
    before = Costs(found).total_macs()
    removed = set(plan_removal(Goal(macs=0.5), found, scores, Rounding(4)))
    assert Costs(found).total_macs(list(removed)) <= before / 2
    for one in found.layers:
        gone = len(removed & set(one.roots)) / one.width
        unit = Rounding(4).unit(one) / one.width
        assert 0.3 - unit <= gone <= 0.5 + unit, one.name


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 10, 12, 16, 25, 64, 300])
def test_the_largest_ratio_an_error_names_works_when_typed(width):
    found, rounding = SimpleNamespace(layers=[layer(width), layer(400)]), Rounding(8)
    with pytest.raises(PruneError, match="would empty layer 'layer'") as caught:
        by_ratio(found, {}, rounding, lambda _: 0.9999)
    told = re.search(r"largest possible ratio is ([\d.]+), which leaves (\d+) of its channels", caught.value.fix)
    assert told is not None
    removed = by_ratio(SimpleNamespace(layers=[layer(width)]), {}, rounding, lambda _: float(told[1]))
    assert width - len(removed) == int(told[2]) == rounding.unit(layer(width))
    by_ratio(found, {}, rounding, lambda _: float(told[1]))
