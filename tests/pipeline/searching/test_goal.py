"""Which trial is the better one, and what stands in the way."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.recipe import parse
from edgemm.contracts.search_parts import FAILED, RULED_OUT, OutputLoss, Tried
from edgemm.errors import RecipeError
from edgemm.pipeline.searching.goal import goal_of

STEPS = [{"prune": {}}, {"quantize": {}}]
SPACE = {"prune.macs_ratio": [0.1, 0.2]}


def goal(card=None, budgets=None, objective=None):
    search = {"space": SPACE, **({"objective": objective} if objective else {})}
    card = card or cards.load("digits")
    return goal_of(parse({"steps": STEPS, "targets": ["openvino"], "budgets": budgets or {}, "search": search}, card=card), card)


def tried(name, points, size, **more):
    return Tried(name, losses={"digit": OutputLoss(points)}, costs={"size_mib": size}, **more)


def test_without_budgets_latency_and_size_are_wanted_small_too():
    assert dict(goal().objective) == {"accuracy": "mean", "latency_p50_ms": "least", "size_mib": "least"}
    assert goal().timed
    assert dict(goal(budgets={"size_mib": 1}).objective) == {"accuracy": "mean"}
    assert not goal(budgets={"size_mib": 1}).timed
    assert goal(budgets={"latency_p95_ms": 1}).timed


def test_the_front_holds_what_nothing_beats_in_all_respects_and_only_what_keeps_the_budgets():
    wanted = goal(budgets={"size_mib": 1.0, "accuracy_drop_points": 2.0})
    trials = [
        tried("a", 1.0, 0.5),
        tried("b", 1.0, 0.6),
        tried("c", 0.5, 0.9),
        tried("d", 0.1, 1.1),
        tried("e", 2.5, 0.1),
        tried("f", 1.0, 0.5),
    ]
    assert [one.name for one in wanted.front(trials)] == ["c", "a"]


def test_how_far_a_trial_passes_a_budget_counts_in_shares_of_it():
    wanted = goal(budgets={"size_mib": 1.0, "accuracy_drop_points": 2.0})
    assert wanted.excesses(tried("a", 3.0, 0.5)) == {"size_mib": -0.5, "accuracy_drop_points": pytest.approx(0.5)}
    assert wanted.excesses(Tried("a", costs={"size_mib": 1.5}, state=RULED_OUT)) == {"size_mib": pytest.approx(0.5)}


def test_where_nothing_is_legal_the_nearest_and_its_budget_are_named():
    wanted = goal(budgets={"size_mib": 0.1, "accuracy_drop_points": 1.0})
    far, near = tried("far", 0.5, 0.9), tried("near", 1.2, 0.2)
    out = Tried("out", costs={"size_mib": 0.5}, state=RULED_OUT)
    assert wanted.front([far, near, out]) == []
    assert wanted.nearest([far, near, out, Tried("failed", state=FAILED)]) is near
    assert wanted.blocked([far, near, out]) == (
        "the nearest is near: size_mib 0.2, limit 0.1; accuracy_drop_points 1.2, limit 1. "
        "At best, each alone: size_mib 0.2 (limit 0.1), accuracy_drop_points 0.5 (limit 1)."
    )


def test_a_regressions_loss_counts_in_points_unless_a_budget_is_its_own():
    card = cards.parse(
        {
            "factory": "a:b",
            "inputs": {"x": {"modality": "tensor", "shape": [4], "dtype": "float32"}},
            "outputs": {"level": {"task": "regression", "unit": "dB"}, "kind": {"task": "classification", "labels": ["a", "b"]}},
        }
    )
    losses = {"level": OutputLoss(0.6, unit="dB", per_point=0.2), "kind": OutputLoss(1.0)}
    one = Tried("a", losses=losses)
    assert one.points == pytest.approx(2.0)
    assert goal(card, {"accuracy_drop_points": 2.0}).excesses(one) == {
        "accuracy_drop_points.level": pytest.approx(0.5),
        "accuracy_drop_points.kind": pytest.approx(-1.0),
    }
    assert goal(card, {"accuracy_drop_points": {"level": 0.5}}).excesses(one) == {"accuracy_drop_points.level": pytest.approx(0.2)}
    assert goal(card, {"size_mib": 1}, {"accuracy": "kind"}).values(one) == [1.0]


def test_accuracy_of_a_model_without_a_metric_cannot_be_wanted():
    card = cards.parse(
        {"factory": "a:b", "inputs": {"x": {"modality": "tensor", "shape": [4], "dtype": "float32"}}, "outputs": {"y": {"task": "tensor"}}}
    )
    with pytest.raises(RecipeError, match="the search wants accuracy, and this model has none to tell"):
        goal(card)
    assert goal(card, {}, {"size_mib": "least"}).count == 1
