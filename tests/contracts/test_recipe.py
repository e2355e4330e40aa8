"""Recipes are checked whole, before anything runs."""

import pytest

from edgemm.contracts import card_file as cards
from edgemm.contracts import recipe as recipes
from edgemm.contracts.recipe import parse
from edgemm.errors import Mistakes, RecipeError
from tests import newcomers

GOOD = {
    "steps": [{"quantize": {"method": "ptq", "calibration_samples": 100, "precision": {"head": "fp32"}}}],
    "targets": {"openvino": {}},
    "budgets": {"accuracy_drop_points": 1.0, "latency_p95_ms": 20},
}


def changed(**changes):
    return {**GOOD, **changes}


@pytest.fixture
def card():
    return cards.parse(
        {
            "factory": "a:b",
            "inputs": {"picture": {"modality": "image", "height": 8, "width": 8}},
            "outputs": {"event": {"task": "classification", "labels": ["a", "b"]}},
        }
    )


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_loads_and_has_its_header(name):
    assert recipes.load(name).targets
    header = (recipes.folder() / f"{name}.yaml").read_text(encoding="utf-8").split("steps:")[0]
    begun = [line.partition(":")[0] for line in header.splitlines() if not line.startswith("#   ")]
    assert begun == ["# For whom", "# Needs", "# Launch", "# Expect", "# Measured"]
    assert f"--recipe {name} " in header


@pytest.mark.parametrize("shipped_card", sorted(path.stem for path in cards.SHIPPED.glob("*.yaml")))
@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_fits_every_shipped_card(name, shipped_card):
    assert recipes.load(name, card=cards.load(shipped_card)).steps


def test_there_are_shipped_recipes():
    assert "openvino-int8" in recipes.shipped()


def test_a_recipe_is_found_by_name_by_file_name_and_by_path():
    by_name = recipes.load("openvino-int8")
    assert recipes.load("recipes/openvino-int8.yaml").sha256 == by_name.sha256
    assert recipes.load(recipes.folder() / "openvino-int8.yaml").sha256 == by_name.sha256


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe 'openvino-int'\.(.|\n)*did you mean 'openvino-int8'"):
        recipes.load("openvino-int")


def test_steps_know_their_stage(card):
    recipe = parse(GOOD, card=card)
    assert [step.name for step in recipe.graph_steps()] == ["quantize"]
    assert recipe.torch_steps() == ()


def test_the_digest_changes_with_an_option_and_not_with_the_name():
    other = parse(changed(steps=[{"quantize": {"calibration_samples": 101}}]))
    assert parse(GOOD, name="a").sha256 == parse(GOOD, name="b").sha256 != other.sha256


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ([], "a recipe is a mapping"),
        (changed(target={}), "unknown key 'target'.*did you mean 'targets'"),
        (changed(steps="quantize"), "'steps' is not a list"),
        (changed(steps=[3]), "step 1 is not one step with its options"),
        (changed(steps=[{"quantise": {}}]), "step 1: unknown step 'quantise'.*did you mean 'quantize'"),
        (changed(steps=[{"quantize": 3}]), r"step 1 \(quantize\): its options are not a mapping"),
        (changed(steps=[{"quantize": {"methods": "ptq"}}]), "unknown key 'methods'.*did you mean 'method'"),
        (changed(steps=[{"quantize": {"method": "guess"}}]), r"method: unknown value 'guess'\..*known: ptq"),
        (changed(steps=[{"quantize": {"calibration_samples": "many"}}]), "calibration_samples: 'many' is not a whole number"),
        (changed(targets={}), "'targets' is missing or empty"),
        (changed(targets={"openvin": {}}), "unknown target 'openvin'.*did you mean 'openvino'"),
        (changed(targets={"openvino": {"devices": 1}}), "targets.openvino: unknown key 'devices'"),
        (changed(budgets=3), "'budgets' is not a mapping"),
        (changed(budgets={"latency_p95": 3}), "unknown budget 'latency_p95'.*did you mean 'latency_p95_ms'"),
        (changed(budgets={"size_mib": -1}), "budgets.size_mib: -1 is not a number of at least 0"),
        (changed(budgets={"size_mib": {"event": 1}}), "is not a number of at least 0"),
        (changed(budgets={"accuracy_drop_points": {"event": "low"}}), "accuracy_drop_points.event: 'low' is not a number"),
    ],
)
def test_a_mistake_is_named_with_its_fix(plain, words):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        parse(plain)


def test_all_mistakes_are_reported_at_once(card):
    plain = {"steps": [{"quantize": {"methods": 1, "precision": {"sound": "fp32"}}}], "targets": {"gpu": {}}, "budgets": {"speed": 1}}
    with pytest.raises(Mistakes) as caught:
        parse(plain, card=card)
    assert len(caught.value.errors) == 4


def test_a_branch_the_model_lacks_is_an_error_naming_the_known_ones(card):
    with pytest.raises(RecipeError, match=r"precision names 'pictures', no part of this model\.(.|\n)*did you mean 'picture'"):
        parse(changed(steps=[{"quantize": {"precision": {"pictures": "fp32"}}}]), card=card)


def test_a_modality_the_card_lacks_is_skipped_with_a_note(card):
    recipe = parse(changed(steps=[{"quantize": {"precision": {"audio": "fp32", "head": "fp32"}}}]), card=card)
    assert recipe.notes(card) == ["quantize.precision: 'audio' is skipped, the model has no audio input."]


def test_a_budget_for_an_unknown_output_is_an_error(card):
    with pytest.raises(RecipeError, match=r"'evnt' is no output of this model(.|\n)*did you mean 'event'"):
        parse(changed(budgets={"accuracy_drop_points": {"evnt": 1.0}}), card=card)


def test_a_recipe_that_is_no_yaml_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("steps: [")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        recipes.load(path)


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("steps: [{quantize: {method: ptqq}}]\ntargets: [openvino]\n")
    with pytest.raises(RecipeError, match=r"^r\.yaml: step 1 \(quantize\)\.method: unknown value 'ptqq'(?s:.)*known: ptq"):
        recipes.load(path)
    path.write_text("steps: [quantize]\ntargets: [openvino]\nbudgets: {accuracy_drop_points: 1.0}\n")
    assert recipes.load(path).name == "r"


@pytest.fixture
def torch_step(monkeypatch, tmp_path):
    """A package folder in which a torch step 'thin' stands beside 'quantize'."""
    from edgemm.contracts import plugins

    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "thin.py").write_text('STAGE = "torch"\n\n\ndef thin(model, ctx, *, ratio: float = 0.5):\n    return model\n')
    plugins.options.cache_clear()
    plugins.constant.cache_clear()
    monkeypatch.setenv(plugins.OWN, str(tmp_path))
    yield
    plugins.options.cache_clear()
    plugins.constant.cache_clear()


@pytest.mark.usefixtures("torch_step")
def test_a_torch_step_after_a_graph_step_is_refused(card):
    with pytest.raises(RecipeError, match=r"'thin' comes after 'quantize'\.(.|\n)*fix: move thin before quantize"):
        parse(changed(steps=[{"quantize": {}}, {"thin": {"ratio": 0.5}}]), card=card)


@pytest.mark.usefixtures("torch_step")
def test_a_torch_step_for_an_onnx_model_is_refused_with_the_reason(card):
    onnx_card = card.replace(factory=None, model="face.onnx")
    with pytest.raises(RecipeError, match=r"'thin' needs a PyTorch model, and this card names 'face.onnx'(.|\n)*an ONNX file has none"):
        parse(changed(steps=[{"thin": {}}, {"quantize": {}}]), card=onnx_card)


def steps(*names):
    options = {"prune": {"ratio": 0.5}}
    return changed(steps=[{name: options.get(name, {})} for name in names])


@pytest.mark.parametrize(
    "order",
    [
        ("prune", "distill", "qat", "quantize"),
        ("prune", "distill", "prune", "distill", "quantize"),
        ("distill", "prune", "qat", "quantize"),
        ("distill",),
        ("distill", "qat"),
        ("qat", "quantize"),
    ],
)
def test_steps_may_come_in_this_order(order, card):
    assert [step.name for step in parse(steps(*order), card=card).steps] == list(order)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (("qat", "prune"), r"step 2: 'prune' comes after 'qat'\..*why: its result is a graph with Q/DQ.*fix: move prune before qat\."),
        (("prune", "qat", "distill"), r"step 3: 'distill' comes after 'qat'\..*neither cut nor trained.*fix: move distill before qat\."),
        (("qat", "qat", "quantize"), r"step 2: 'qat' comes twice\..*neither cut nor trained.*fix: keep one qat\."),
        (("quantize", "qat"), r"step 2: 'qat' comes after 'quantize'\..*fix: move qat before quantize\."),
    ],
)
def test_an_order_that_cannot_be_is_refused(order, words, card):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        parse(steps(*order), card=card)


def test_every_step_out_of_order_is_named_at_once(card):
    with pytest.raises(Mistakes) as caught:
        parse(steps("qat", "prune", "qat", "quantize", "distill"), card=card)
    assert [error.what.partition(": ")[2] for error in caught.value.errors] == [
        "step 2: 'prune' comes after 'qat'.",
        "step 3: 'qat' comes twice.",
        "step 5: 'distill' comes after 'quantize'.",
        "step 5: 'distill' comes after 'qat'.",
    ]


SECOND_QUANTIZER = '''
"""Quantizes in another way."""

from edgemm.contracts.specs import Branch

STAGE = "graph"
QUANTIZES = {is_one}


def {name}(model, ctx, *, precision: dict[Branch, str] | None = None): ...
'''


@pytest.mark.parametrize(("name", "is_one"), [("round_off", True), ("rounds_nothing", False)])
def test_only_a_step_that_says_it_quantizes_takes_a_precision_for_all_branches_not_named(name, is_one, card, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEMM_PLUGINS", str(newcomers.write(tmp_path, "steps", name, SECOND_QUANTIZER.format(name=name, is_one=is_one))))
    plain = changed(steps=[{name: {"precision": {"default": "int8", "picture": "fp32"}}}])
    if is_one:
        (step,) = parse(plain, card=card).steps
        assert (step.quantizes, step.prunes, step.trains_quantized) == (True, False, False)
    else:
        with pytest.raises(RecipeError, match="precision names 'default', no part of this model"):
            parse(plain, card=card)


def test_on_miss_may_name_a_step_of_ones_own_that_trains_with_quantization(card, tmp_path, monkeypatch):
    source = 'STAGE = "torch"\nTRAINS_QUANTIZED = {is_one}\n\n\ndef {name}(model, ctx): ...\n'
    for name, is_one in (("ternary", True), ("warm_up", False)):
        monkeypatch.setenv("EDGEMM_PLUGINS", str(newcomers.write(tmp_path, "steps", name, source.format(name=name, is_one=is_one))))
    (step,) = parse(changed(steps=[{"quantize": {"on_miss": "ternary"}}]), card=card).steps
    assert step.options["on_miss"] == "ternary"
    with pytest.raises(RecipeError, match="on_miss: unknown value 'warm_up'"):
        parse(changed(steps=[{"quantize": {"on_miss": "warm_up"}}]), card=card)


@pytest.mark.parametrize("value", ["CPU", ["CPU"], False, 0])
def test_target_options_that_are_no_mapping_are_told(value):
    with pytest.raises(RecipeError, match=r"targets.openvino: .* is not a mapping\.\n  fix: write option: value\."):
        parse(changed(targets={"openvino": value}))


def test_names_in_lists_stay_as_they_are_written(tmp_path):
    (tmp_path / "r.yaml").write_text("steps: [off]\ntargets: [onnxruntime, no, 007]\n")
    with pytest.raises(Mistakes) as error:
        recipes.load(tmp_path / "r.yaml")
    assert all(words in str(error.value) for words in ("unknown step 'off'", "unknown target 'no'", "unknown target '007'"))
