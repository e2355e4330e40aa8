"""What holds for every compression step."""

import inspect

import pytest

from edgemm.contracts import plugins
from edgemm.contracts.recipe import parse

STEPS = plugins.names("steps")


@pytest.mark.parametrize("name", STEPS)
def test_it_names_its_stage(name):
    assert plugins.constant("steps", name, "STAGE") in ("torch", "graph")


@pytest.mark.parametrize("name", STEPS)
def test_the_last_of_its_stage_says_why(name):
    why = plugins.constant("steps", name, "LAST")
    assert why is None or why.endswith(".")


@pytest.mark.parametrize("name", STEPS)
def test_it_is_a_function_of_model_and_context_with_keyword_only_options(name):
    step = plugins.function("steps", name)
    parameters = list(inspect.signature(step).parameters.values())
    assert [p.name for p in parameters[:2]] == ["model", "ctx"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[2:])
    assert inspect.getdoc(step)


@pytest.mark.parametrize("name", STEPS)
def test_what_a_recipe_may_say_is_what_the_function_takes(name):
    taken = inspect.signature(plugins.function("steps", name)).parameters
    for option in plugins.options("steps", name).values():
        assert option.name in taken
        assert option.required or option.default == taken[option.name].default


@pytest.mark.parametrize("name", STEPS)
def test_a_recipe_may_name_it_without_options(name):
    if any(option.required for option in plugins.options("steps", name).values()):
        pytest.skip(f"{name} has options without a default")
    assert parse({"steps": [name], "targets": ["onnxruntime"]}).steps[0].name == name
