"""The same seed gives the same trials: killed in any place and resumed, with every sampler."""

import math
import shutil

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts.recipe import parse
from edgemm.contracts.search_parts import FAILED, RULED_OUT, OutputLoss, Tried
from edgemm.pipeline.searching.goal import goal_of
from edgemm.pipeline.searching.study import Study, mend

SPACE = {
    "prune.macs_ratio": {"from": 0.1, "to": 0.8, "step": 0.1},
    "prune.spread": ["even", "branches"],
    "distill.logits_weight": {"from": 0.25, "to": 4.0, "log": True},
    "quantize.calibration_samples": {"from": 8, "to": 64},
}
GRID = {"prune.macs_ratio": {"from": 0.1, "to": 0.5, "step": 0.1}, "prune.spread": ["even", "branches"]}
KILLED = [(sampler, at) for sampler in ("tpe", "random", "grid", "nsga2") for at in (1, 3, 6)] + [
    ("gp", 7)
]  # which takes seconds to choose
TRIALS = 14


def opened(path, sampler="tpe", *, seed=0, first=(), trials=TRIALS, budgets=True, space=None):
    search = {"sampler": sampler, "space": space or (GRID if sampler == "grid" else SPACE), "batch": 4}
    card = cards.load("digits")
    plain = {"steps": [{"prune": {}}, {"distill": {}}, {"quantize": {}}], "targets": ["openvino"], "search": search}
    recipe = parse({**plain, "budgets": {"size_mib": 0.6} if budgets else {}}, card=card)
    return Study(path, recipe.search, goal_of(recipe, card), seed=seed, trials=trials, first=first)


def came_of(number, values):
    """A made-up model: what is cut makes it smaller, and costs more the more there is gone already; one in seven fails."""
    ratio = values["prune.macs_ratio"]
    size, points = 1.0 - ratio, 20 * ratio**3 + (values["prune.spread"] == "even") + abs(math.log(values.get("distill.logits_weight", 1)))
    costs = {"size_mib": size, "latency_p50_ms": 0.2 + size}
    if number % 7 == 5:
        return Tried(f"trial {number}", values, state=FAILED, why="made up")
    if size > 0.8:
        return Tried(f"trial {number}", values, costs=costs, state=RULED_OUT)
    return Tried(f"trial {number}", values, losses={"digit": OutputLoss(points, points - 1, points + 1, n=600)}, costs=costs)


def finished(study):
    while batch := study.next_batch():
        study.tell({number: came_of(number, values) for number, values in batch})
    return study.results()


@pytest.mark.parametrize(("sampler", "at"), KILLED)
def test_a_search_that_was_killed_goes_on_to_the_same_trials(sampler, at, tmp_path):
    straight = finished(opened(tmp_path / "straight", sampler))
    killed = opened(tmp_path / "killed", sampler)
    for _ in range(at // 3):
        study_batch = killed.next_batch()
        killed.tell({number: came_of(number, values) for number, values in study_batch})
    batch = killed.next_batch()
    killed.tell({number: came_of(number, values) for number, values in batch[: at % 3]})  # killed while the batch was told
    resumed = opened(tmp_path / "killed", sampler)
    assert finished(resumed) == straight
    assert len(straight) == (10 if sampler == "grid" else TRIALS)


def test_a_search_that_was_killed_while_it_chose_goes_on_to_the_same_trials(tmp_path):
    straight = finished(opened(tmp_path / "straight"))
    killed = opened(tmp_path / "killed")
    for _ in range(2):
        killed.tell({number: came_of(number, values) for number, values in killed.next_batch()})
    killed.next_batch()
    lines = (tmp_path / "killed").read_bytes().splitlines(keepends=True)
    for cut in range(1, 14, 3):  # values of one trial are a line each
        shutil.copy(tmp_path / "killed", tmp_path / f"cut{cut}")
        (tmp_path / f"cut{cut}").write_bytes(b"".join(lines[:-cut]) + lines[-cut][:7])
        assert finished(opened(tmp_path / f"cut{cut}")) == straight


def test_another_seed_gives_other_trials(tmp_path):
    assert finished(opened(tmp_path / "a", seed=1)) != finished(opened(tmp_path / "b", seed=2))


def test_values_that_are_known_come_first_and_teach_the_sampler(tmp_path):
    known = {"prune.macs_ratio": 0.3, "prune.spread": "branches", "distill.logits_weight": 1.0, "quantize.calibration_samples": 64}
    results = finished(opened(tmp_path / "study", first=[known]))
    assert results[0].options == known
    assert len(results) == TRIALS


def test_a_grid_ends_where_all_was_tried(tmp_path):
    results = finished(opened(tmp_path / "study", "grid", trials=100))
    assert len({tuple(tried.options.values()) for tried in results}) == len(results) == 10


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "nsga2"])
def test_where_all_combinations_fit_into_the_trials_each_is_tried_once(sampler, tmp_path):
    known = {"prune.macs_ratio": 0.3, "prune.spread": "branches"}
    results = finished(opened(tmp_path / "study", sampler, space=GRID, first=[known], trials=10))
    assert results[0].options == known
    assert len({tuple(tried.options.values()) for tried in results}) == len(results) == 10


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_where_all_is_known_before_nothing_is_tried_twice(sampler, tmp_path):
    first = [{"prune.spread": spread} for spread in ("even", "branches")]
    study = opened(tmp_path / "study", sampler, space={"prune.spread": ["even", "branches"]}, first=first, trials=6)
    assert [values for _, values in study.next_batch()] == first
    assert study.trials == 2


def test_what_differs_is_explained_by_what_makes_it_differ(tmp_path):
    study = opened(tmp_path / "study", "random", trials=40)
    finished(study)
    shares = study.importances()
    assert max(shares, key=shares.get) in ("prune.macs_ratio", "distill.logits_weight")
    assert sum(shares.values()) == pytest.approx(1.0)
    assert opened(tmp_path / "new").importances() == {}


def test_without_budgets_several_numbers_are_wanted_small(tmp_path):
    results = finished(opened(tmp_path / "study", budgets=False))
    assert len(results) == TRIALS


def test_half_a_line_of_the_journal_and_a_lock_of_a_killed_process_are_removed(tmp_path):
    path = tmp_path / "study"
    path.write_bytes(b'{"whole": 1}\n{"hal')
    (tmp_path / "study.lock").symlink_to("gone")
    mend(path)
    assert path.read_bytes() == b'{"whole": 1}\n'
    assert not (tmp_path / "study.lock").is_symlink()
