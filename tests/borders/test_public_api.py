"""``edgemm.__all__`` is the public API and mirrors the commands."""

import importlib
import inspect

import pytest

import edgemm
from edgemm.cli import app
from edgemm.contracts import plugins


def test_all_is_sorted_and_mirrors_the_commands():
    commands = sorted(info.name or info.callback.__name__ for info in app.registered_commands)
    assert edgemm.__all__ == commands == sorted(edgemm.__all__)


def test_every_verb_file_is_a_command():
    assert plugins.names("verbs") == edgemm.__all__


@pytest.mark.parametrize("name", edgemm.__all__)
def test_a_verb_is_a_documented_function_that_takes_what_the_command_takes(name):
    function = getattr(edgemm, name)
    assert function.__module__ == f"edgemm.verbs.{name}"
    assert inspect.getdoc(function)
    command = next(info.callback for info in app.registered_commands if (info.name or info.callback.__name__) == name)
    printing = {"json", "markdown"}
    other = {"compare"} if name == "benchmark" else set()  # measures nothing: a function of its own, verbs.benchmark.compare
    typed = {{"loss_weight": "loss_weights"}.get(option, option) for option in inspect.signature(command).parameters} - printing - other
    assert typed <= set(inspect.signature(function).parameters)


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
