"""What a recipe searches is checked whole, by the schemas of the steps themselves."""

import re
from pathlib import Path

import pytest
import yaml

from edgemm.contracts import card_file as cards
from edgemm.contracts import recipe as recipes
from edgemm.contracts.recipe import parse
from edgemm.contracts.search_section import KEYS, SAMPLERS
from edgemm.errors import Mistakes, RecipeError

SPACE = {
    "prune.macs_ratio": {"from": 0.2, "to": 0.7, "step": 0.1},
    "prune.branches.audio": {"from": 0.0, "to": 0.6, "step": 0.1},
    "distill.logits_weight": {"from": 0.25, "to": 4.0, "log": True},
    "quantize.precision.audio": ["int8", "fp32"],
    "quantize.calibration_samples": {"from": 8, "to": 32, "step": 8},
}
STEPS = [{"prune": {}}, {"distill": {}}, {"quantize": {}}]


def recipe(search, *, steps=STEPS, card=None):
    return parse({"steps": steps, "targets": ["openvino"], "search": search}, card=card)


@pytest.fixture(scope="module")
def digits():
    return cards.load("digits")


def test_the_values_of_a_space_are_put_into_the_options_they_name(digits):
    searched = recipe({"space": SPACE}, card=digits)
    values = {"prune.macs_ratio": 0.5, "prune.branches.audio": 0.3, "distill.logits_weight": 2.0, "quantize.precision.audio": "fp32"}
    steps = searched.search.applied(searched.entries(), values)
    assert steps == [
        ("prune", {"macs_ratio": 0.5, "branches": {"audio": 0.3}}),
        ("distill", {"logits_weight": 2.0}),
        ("quantize", {"precision": {"audio": "fp32"}}),
    ]


def test_a_number_of_a_range_is_written_as_a_person_would_write_it(digits):
    ratio, _, weight, _, samples = recipe({"space": SPACE}, card=digits).search.space
    assert ratio.rounded(0.30000000000000004) == 0.3
    assert ratio.grid() == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert weight.rounded(0.7891234567) == 0.7891
    assert samples.grid() == (8, 16, 24, 32)
    assert all(isinstance(value, int) for value in samples.grid())


def test_a_range_ends_on_its_last_step():
    (ratio,) = recipe({"space": {"prune.macs_ratio": {"from": 0.2, "to": 0.75, "step": 0.1}}}).search.space
    assert ratio.ends() == (0.2, 0.7)


def test_what_is_an_options_default_is_left_out_so_that_a_hand_written_recipe_is_the_same():
    by_hand = recipes.load("prune50-distil-int8")
    plain = {"prune.spread": ["even", "branches"], "prune.macs_ratio": [0.5, 0.6], "quantize.precision.head": [None, "fp32"]}
    searched = recipe({"space": plain}, steps=[{"prune": {}}, {"distill": {}}, {"quantize": {"method": "ptq", "calibration_samples": 300}}])
    values = searched.search.values_of(by_hand.entries(), searched.entries())
    assert values == {"prune.spread": "even", "prune.macs_ratio": 0.5, "quantize.precision.head": None}
    assert searched.with_steps(searched.search.applied(searched.entries(), values), "a").entries() == by_hand.entries()
    assert searched.search.values_of(recipes.load("openvino-int8").entries(), searched.entries()) is None
    assert searched.search.values_of(recipes.load("prune30-distil-int8").entries(), searched.entries()) is None


def test_what_is_searched_is_not_what_a_recipe_is():
    assert recipe({"space": SPACE}).sha256 == parse({"steps": STEPS, "targets": ["openvino"]}).sha256
    assert recipe({"space": SPACE}).with_budgets({"size_mib": 1.0}).sha256 != recipe({"space": SPACE}).sha256


def test_a_modality_that_the_card_lacks_is_left_out_with_a_note(digits):
    searched = recipe({"space": {**SPACE, "prune.branches.text": [0.1, 0.2]}}, card=digits)
    assert "prune.branches.text" not in [parameter.name for parameter in searched.search.space]
    assert searched.notes(digits) == ["search.space: 'prune.branches.text' is left out, the model has no such input."]


def test_the_second_of_two_steps_is_named_by_its_number():
    steps = [{"prune": {}}, {"distill": {}}, {"prune": {}}]
    (second,) = recipe({"space": {"prune.2.ratio": [0.1, 0.2]}}, steps=steps).search.space
    assert second.step == 2
    with pytest.raises(RecipeError, match=r"'prune\.ratio': the recipe has 2 steps 'prune'(.|\n)*write prune\.1\.ratio to prune\.2\.ratio"):
        recipe({"space": {"prune.ratio": [0.1, 0.2]}}, steps=steps)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (3, "search is not a mapping"),
        ({"spaces": {}, "space": SPACE}, "search: unknown key 'spaces'.*did you mean 'space'"),
        ({"space": {}}, "search.space is missing or empty: there is nothing to search"),
        ({}, "search.space is missing or empty"),
        ({"space": SPACE, "sampler": "tpee"}, "search.sampler: 'tpee' is no sampler.*did you mean 'tpe'"),
        ({"space": SPACE, "seeds": 0}, "search.seeds: 0 is not a whole number of at least 1"),
        ({"space": SPACE, "start": "openvino-int8"}, "search.start is not a list of recipes"),
        ({"space": {"prun.ratio": [0.1]}}, "'prun.ratio' names no step of this recipe.*did you mean 'prune'"),
        ({"space": {"prune": [0.1]}}, "'prune' names no option.*write prune.<option>"),
        ({"space": {"prune.ratios": [0.1]}}, "'prune.ratios': prune has no option 'ratios'.*did you mean 'ratio'"),
        ({"space": {"prune.2.ratio": [0.1]}}, "'prune.2.ratio': the recipe has 1 steps 'prune'"),
        ({"space": {"prune.ratio": []}}, "prune.ratio has no choice"),
        ({"space": {"prune.ratio": [0.1, 0.1]}}, "prune.ratio: 0.1 stands there twice"),
        ({"space": {"prune.ratio": 0.1}}, "prune.ratio: 0.1 is neither a list nor a range"),
        ({"space": {"prune.ratio": {"from": 0.1, "to": 0.2, "upto": 0.2}}}, "prune.ratio: unknown key 'upto'"),
        ({"space": {"prune.ratio": {"from": 0.7, "to": 0.2}}}, "prune.ratio begins at 0.7 and ends at 0.2"),
        ({"space": {"prune.ratio": {"from": 0.1, "to": 0.2, "step": 0.3}}}, "prune.ratio: step is 0.3"),
        ({"space": {"prune.ratio": {"from": 0.1, "to": 0.2, "step": 0.1, "log": True}}}, "has both step and log"),
        ({"space": {"prune.ratio": {"from": 0.0, "to": 0.2, "log": True}}}, "is searched by its logarithm and begins at 0"),
        ({"space": {"prune.ratio": {"from": 0.1, "to": 0.9, "step": 1e-6}}}, "prune.ratio has 800000 values"),
        ({"space": {"quantize.method": ["ptq", "best"]}}, "quantize.method: unknown value 'best'.*known: ptq"),
        (
            {"space": {"distill.epochs": {"from": 1, "to": 9.5, "step": 0.5}}},
            "distill.epochs is a whole number, and so are from, to and step",
        ),
        ({"space": {"prune.branches.sound": [0.1]}}, "branches names 'sound', no part of this model"),
        ({"space": {"prune.branches.text": [0.1]}}, "names only what the model lacks: prune.branches.text"),
        ({"space": {"prune.branches": [{}], "prune.branches.audio": [0.1]}}, "set the same option"),
        ({"space": {"prune.ratio": {"from": 0.1, "to": 0.2}}, "sampler": "grid"}, "prune.ratio has no steps, which a grid needs"),
        ({"space": SPACE, "objective": {}}, "search.objective is not a mapping"),
        ({"space": SPACE, "objective": {"accuracy": "digits"}}, "'digits' is no output of this model.*did you mean 'digit'"),
        ({"space": SPACE, "objective": {"speed": "least"}}, "'speed' is nothing to aim at"),
        ({"space": SPACE, "objective": {"size_mib": "most"}}, "size_mib: 'most' is no aim.*write size_mib: least"),
        ({"space": SPACE, "fidelity": {"distill.epochs": [1]}}, "fidelity is not one option with its values"),
        ({"space": SPACE, "fidelity": {"distill.epochs": [1, 4], "keep": 2}}, "keep: 2 is no share"),
        ({"space": SPACE, "fidelity": {"prune.macs_ratio": [0.1, 0.4]}}, "prune.macs_ratio is searched too"),
        ({"space": SPACE, "fidelity": {"distill.epochs": [1, "two"]}}, "distill.epochs: 'two' is not a whole number"),
    ],
)
def test_a_mistake_is_named_with_its_fix(search, words, digits):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        recipe(search, card=digits)


def test_all_mistakes_are_told_at_once(digits):
    with pytest.raises(Mistakes) as caught:
        recipe({"sampler": "best", "seeds": -1, "space": {"prune.rati": [1], "quantize.method": ["a", "b"]}}, card=digits)
    assert len(caught.value.errors) == 5


def test_the_page_of_the_search_names_every_key_and_sampler_and_its_example_is_a_good_one(digits):
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    plain = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL).group(1))
    assert len(parse(plain, card=digits).search.space) == 4
    for name in KEYS:
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), name
    for name in SAMPLERS:
        assert f"`{name}`" in page


def test_words_of_a_choice_stay_words(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("steps: [distill]\ntargets: [openvino]\nsearch: {space: {distill.device: [on, off], distill.patience: [007, null]}}\n")
    device, patience = recipes.load(path).search.space
    assert device.choices == ("on", "off")
    assert patience.choices == (7, None)
