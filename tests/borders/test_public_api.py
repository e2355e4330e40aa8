"""``edgemm.__all__`` is the public API and mirrors the commands."""

import importlib
import inspect

import pytest

import edgemm
from edgemm.cli import NOT_TYPED, application
from edgemm.contracts import plugins


def commands() -> dict[str, inspect.Signature]:
    """Command -> what Typer reads of it, with all options."""
    app = application(plugins.names("verbs"))
    return {info.name: inspect.signature(info.callback) for info in app.registered_commands}


def test_all_is_sorted_and_mirrors_the_commands():
    assert edgemm.__all__ == sorted(commands()) == sorted(edgemm.__all__)


def test_every_verb_file_is_a_command():
    assert plugins.names("verbs") == edgemm.__all__


@pytest.mark.parametrize("name", edgemm.__all__)
def test_a_verb_is_a_documented_function_and_its_command_takes_what_it_takes(name):
    function = getattr(edgemm, name)
    assert function.__module__ == f"edgemm.verbs.{name}"
    assert inspect.getdoc(function)
    takes = set(inspect.signature(function).parameters) - set(NOT_TYPED)
    assert takes == set(commands()[name].parameters) - {"json", "markdown"}


@pytest.mark.parametrize("name", edgemm.__all__)
def test_what_is_not_typed_is_what_the_verb_takes_by_itself(name):
    taken = inspect.signature(getattr(edgemm, name)).parameters
    for option, parameter in commands()[name].parameters.items():
        if option not in ("json", "markdown"):
            default = taken[option].default
            assert parameter.default == (None if default == () else default), f"edgemm {name}: {option}"


@pytest.mark.parametrize("name", edgemm.__all__)
def test_every_option_says_what_it_means(name):
    for option, parameter in commands()[name].parameters.items():
        assert parameter.annotation.__metadata__[0].help, f"edgemm {name}: {option}"


def test_every_name_is_still_callable_after_every_submodule_was_imported(fresh_python):
    printed = fresh_python("""
import importlib, pkgutil, warnings
import edgemm
warnings.simplefilter("ignore")
for module in pkgutil.walk_packages(edgemm.__path__, "edgemm."):
    if module.name != "edgemm.__main__":
        importlib.import_module(module.name)
print([name for name in edgemm.__all__ if not callable(getattr(edgemm, name))])
""")
    assert printed.splitlines()[-1] == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'edgemm' has no attribute 'squeeze'"):
        edgemm.squeeze  # noqa: B018


def test_dir_lists_the_public_names():
    assert dir(edgemm) == sorted([*edgemm.__all__, "__version__"])


def test_the_version_is_that_of_the_installed_package():
    assert importlib.metadata.version("edgemm") == edgemm.__version__
