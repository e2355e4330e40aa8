"""The folder is the registry; options are read from source."""

import ast

import pytest

from edgemm.contracts import plugins
from edgemm.contracts.modality import Modality
from edgemm.contracts.target import Target
from edgemm.errors import EdgemmError, MissingExtra


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty package folder that stands for edgemm's own."""
    for name in ("options", "constant"):
        getattr(plugins, name).cache_clear()
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    (tmp_path / "workshop" / "steps").mkdir(parents=True)
    yield tmp_path
    for name in ("options", "constant"):
        getattr(plugins, name).cache_clear()


def test_names_are_the_files_that_do_not_start_with_an_underscore(package):
    for name in ("b.py", "a.py", "_protocol.py", "__init__.py", "note.txt"):
        (package / "workshop" / "steps" / name).write_text("")
    assert plugins.names("steps") == ["a", "b"]


def test_a_loaded_plugin_is_an_instance_of_its_class():
    target = plugins.load(Target, "onnxruntime")
    assert type(target).__module__ == "edgemm.box.targets.onnxruntime"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(EdgemmError, match=r"there is no target 'openvin'\.(.|\n)*did you mean 'openvino'\?"):
        plugins.find(Target, "openvin")


def test_an_unknown_modality_is_called_by_its_kind():
    with pytest.raises(EdgemmError, match="there is no modality 'smell'"):
        plugins.find(Modality, "smell")


def test_options_of_a_step_are_its_keyword_only_parameters(package):
    (package / "workshop" / "steps" / "thin.py").write_text(
        "import torch\n\ndef thin(model, ctx, *, ratio: float, rounds: int = 8, cut: str | None = None): ...\n"
    )
    found = plugins.options("steps", "thin")
    assert list(found) == ["ratio", "rounds", "cut"]
    assert found["ratio"].required
    assert (found["rounds"].default, found["cut"].default) == (8, None)
    assert ast.unparse(found["cut"].annotation) == "str | None"


def test_options_of_a_class_are_its_fields_or_its_init(package):
    (package / "workshop" / "steps" / "a.py").write_text(
        "class A(Base):\n    size: int\n    rate_hz: float = 16e3\n    _hidden: int = 0\n    kind: ClassVar[str] = 'x'\n"
    )
    (package / "workshop" / "steps" / "b.py").write_text("class B(Base):\n    x: int\n    def __init__(self, *, threads: int = 1): ...\n")
    assert list(plugins.options("steps", "a")) == ["size", "rate_hz"]
    assert list(plugins.options("steps", "b")) == ["threads"]


def test_a_constant_is_read_without_importing(package):
    (package / "workshop" / "steps" / "thin.py").write_text('import no_such_package\nSTAGE = "torch"\n')
    assert plugins.constant("steps", "thin", "STAGE") == "torch"
    assert plugins.constant("steps", "thin", "OTHER") is None


@pytest.mark.parametrize(
    ("missing", "fix"),
    [("openvino", r"pip install 'edgemm\[openvino\]'"), ("PIL", r"pip install 'edgemm\[data\]'"), ("sklearn", "pip install sklearn")],
)
def test_a_missing_package_names_its_extra(missing, fix):
    error = plugins.missing_extra(ModuleNotFoundError("no", name=f"{missing}.inner"), "this command")
    assert isinstance(error, MissingExtra)
    with pytest.raises(MissingExtra, match=rf"this command needs the package '{missing}'\.(.|\n)*{fix}"):
        raise error


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("onnxruntime", "onnxruntime"),
        ("tensorrt_rtx", "tensorrt-rtx"),
        ("prometheus_client", "run"),
        ("paho", "run"),
        ("torch", "compress"),
    ],
)
def test_the_extra_is_the_smallest_that_pyproject_lists_the_package_in(module, extra):
    assert plugins.extra_of(module) == extra


def test_what_only_developers_need_is_in_no_extra():
    assert plugins.extra_of("scipy") is None


def test_what_a_target_needs_on_a_box_is_the_extra_of_its_name():
    assert [requirement.partition(">=")[0] for requirement in plugins.requirements("openvino")] == ["openvino"]
    assert plugins.requirements("tensorrt") == []  # it comes from apt
