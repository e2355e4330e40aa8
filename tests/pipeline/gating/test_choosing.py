"""The threshold of a gate: it keeps what it promises over many draws of val, for every head and label, and is as low as it may be."""

import numpy as np
import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.gate import APPROXIMATE, EXACT
from edgemm.pipeline.gating import choosing
from edgemm.pipeline.gating.choosing import Promise, Sides

LABELS = ["quiet", "visitor", "intruder"]


def card(*others):
    outputs = {"event": {"task": "classification", "labels": LABELS}} | dict(others)
    inputs = {name: {"modality": "sensor", "shape": [2]} for name in ("audio", "image")}
    return cards.parse({"model": "m.onnx", "inputs": inputs, "outputs": outputs})


def sides(rng, rows, *, harm=0.15, gain=0.02):
    """What is true, the whole model right in nine of ten rows, and without the image one that is the less right the less sure it is."""
    truth = rng.choice(3, rows, p=[0.7, 0.2, 0.1])
    doubt = rng.random(rows)
    whole_right = rng.random(rows) < 0.9
    without_right = np.where(whole_right, rng.random(rows) > harm * 2 * doubt**3, rng.random(rows) < gain)

    def logits(right, scale):
        answered = np.where(right, truth, (truth + rng.integers(1, 3, rows)) % 3)
        return (np.eye(3)[answered] * scale[:, None]).astype(np.float32)

    return Sides(
        {"event": logits(whole_right, np.full(rows, 6.0))}, {"event": logits(without_right, 8 * (1 - doubt) + 0.1)}, {"event": truth}
    )


def chosen_of(about, beside, val, loss_points, **more):
    return choosing.choose(about, choosing.fix(about, beside, loss_points), val, Promise(loss_points, **more))


def lost_points(chosen, population):
    sure = choosing.Sureness(card()).of(chosen.criterion, population.without)
    skipped = sure >= (np.inf if chosen.threshold is None else chosen.threshold)
    return loss_of(population, skipped)


def loss_of(population, skipped):
    right = [side["event"].argmax(1) == population.truth["event"] for side in (population.whole, population.gated(skipped))]
    return 100 * (right[0].mean() - right[1].mean())


def test_over_many_draws_of_val_what_is_lost_exceeds_the_budget_in_at_most_5_percent():
    rng, loss_points = np.random.default_rng(0), 1.0
    beside, population = sides(rng, 1500), sides(rng, 40_000)
    found = [chosen_of(card(), beside, sides(rng, 2000), loss_points) for _ in range(12)]
    lost = [lost_points(chosen, population) for chosen in found]
    assert np.mean(np.array(lost) > loss_points) <= 0.05
    assert np.mean([chosen.skipped for chosen in found]) > 0.2
    assert all(chosen.bound == EXACT and chosen.worst.bound <= loss_points for chosen in found if chosen.threshold is not None)


def test_the_next_rows_by_themselves_lose_more_than_the_budget_in_at_most_5_percent():
    rng, loss_points, coming = np.random.default_rng(5), 1.0, 600
    fixed, population = choosing.fix(card(), sides(rng, 1500), loss_points), sides(rng, 20_000)
    sure, lost, shares = choosing.Sureness(card()).of(fixed.criterion, population.without), [], []
    for _ in range(20):
        dealt = rng.permutation(len(population))
        val, following = population.rows(dealt[:2000]), dealt[2000 : 2000 + coming]
        chosen = choosing.choose(card(), fixed, val, Promise(loss_points, next_rows=coming))
        skipped = sure >= (np.inf if chosen.threshold is None else chosen.threshold)
        lost.append(loss_of(population.rows(following), skipped[following]))
        shares.append(skipped.mean())
    assert np.mean(np.array(lost) > loss_points + 1e-9) <= 0.05
    assert np.mean(shares) > 0.2


def test_a_bound_on_the_next_rows_skips_less_and_says_what_is_skipped_without_it():
    rng = np.random.default_rng(6)
    beside, val = sides(rng, 1500), sides(rng, 1250)
    plain, strict = (chosen_of(card(), beside, val, 1.0, next_rows=count) for count in (0, 400))
    assert plain.skipped == plain.skipped_for_all == strict.skipped_for_all > strict.skipped > 0
    hopeless = chosen_of(card(), beside, val, 0.3, next_rows=300)
    assert (hopeless.threshold, hopeless.skipped) == (None, 0.0)
    assert hopeless.skipped_for_all > 0


def test_a_larger_budget_skips_more_and_a_hopeless_branch_is_never_skipped():
    rng = np.random.default_rng(1)
    beside, val = sides(rng, 600), sides(rng, 1200)
    shares = [chosen_of(card(), beside, val, points).skipped for points in (0.3, 1.0, 2.0)]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]
    blind = Sides(val.whole, {"event": np.tile(np.float32([[9, 0, 0]]), (len(val), 1))}, val.truth)
    chosen = chosen_of(card(), blind, blind, 0.3)
    assert (chosen.threshold, chosen.skipped) == (None, 0.0)
    assert chosen.worst.points > 10


def test_a_label_with_rows_enough_is_held_by_itself_and_the_others_are_named():
    rng = np.random.default_rng(2)
    val = sides(rng, 6000, harm=0.02)
    rare = val.truth["event"] == 2  # one of ten rows: its answers without the image are surely wrong
    val.without["event"][rare] = np.float32([9, 0, 0])
    loose = chosen_of(card(), val, val, 20.0)
    assert loose.threshold is None
    assert {lost.label for lost in loose.lost} == {None, *LABELS}
    strict = chosen_of(card(), val, val, 0.6)
    assert strict.too_few == {"event: intruder": int(rare.sum())} or strict.threshold is None


def test_gains_that_may_not_be_counted_make_the_bound_larger():
    rng = np.random.default_rng(3)
    beside, val = sides(rng, 1500, gain=0.5), sides(rng, 2000, gain=0.5)
    counted, plain = (chosen_of(card(), beside, val, 0.3, counts_gains=word) for word in (True, False))
    assert counted.skipped > plain.skipped


def test_a_head_that_is_no_share_of_rows_is_held_by_its_paired_interval_and_called_approximate():
    rng = np.random.default_rng(4)
    wide = card(("level", {"task": "regression", "unit": "dB"}))

    def with_level(one, off):
        level = rng.normal(0, 10, len(one)).astype(np.float32)
        return Sides(one.whole | {"level": level[:, None]}, one.without | {"level": (level + off)[:, None]}, one.truth | {"level": level})

    near, far = (chosen_of(wide, with_level(sides(rng, 1500), off), with_level(sides(rng, 2000), off), 1.0) for off in (0.001, 5.0))
    assert near.bound == far.bound == APPROXIMATE
    assert near.skipped > far.skipped
    assert far.skipped <= 0.02


def test_it_says_how_many_rows_a_budget_needs():
    assert choosing.rows_for_all(Promise(0.3)) == pytest.approx(1000, abs=10)
    assert choosing.rows_for_all(Promise(1.0)) == pytest.approx(300, abs=5)
    assert choosing.rows_for_all(Promise(0.3, error=0.025)) > choosing.rows_for_all(Promise(0.3))
    assert choosing.rows_needed(Promise(0.3)) == choosing.rows_for_all(Promise(0.3))
    assert choosing.rows_needed(Promise(0.3, next_rows=None)) == 1334
    assert choosing.rows_needed(Promise(0.3, next_rows=20_000)) == pytest.approx(1006, abs=5)
    points = choosing.least_points(500, Promise(0.3, next_rows=None))
    assert choosing.rows_needed(Promise(points, next_rows=None)) <= 500 < choosing.rows_needed(Promise(0.95 * points, next_rows=None))
