"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest
import yaml

import edgemm
from edgemm import card as cards
from edgemm import plugins
from edgemm import recipe as recipes

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
COMMAND = re.compile(r"^\s*edgemm (\w+)((?: .*)?)$", re.MULTILINE)


def test_the_readme_fits_in_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_on_a_page_exists_with_its_options(page, capsys):
    from edgemm.cli import main

    for name, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert name in edgemm.__all__
        with pytest.raises(SystemExit):
            main([name, "--help"])
        shown = capsys.readouterr().out
        for option in re.findall(r"(?<!\S)(--?[a-z][\w-]*)", rest.partition("#")[0]):
            assert re.search(rf"(?<!\S){option}[ ,]", shown), f"{page.name}: edgemm {name} has no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_a_page_names_is_there(page):
    for path in re.findall(r"`((?:edgemm|tests|docs|examples|recipes|benchmarks)/[\w/.-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_recipe_and_shipped_card_on_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?:-r|--recipe) ([\w./-]+)", text):
        assert recipes.load(name).targets
    for name in re.findall(r"edgemm train (\w+) ", text):
        assert cards.locate(name).is_file()


def test_the_recipe_in_the_readme_is_a_recipe():
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        if text.startswith("steps:"):
            assert recipes.parse(yaml.safe_load(text)).targets
            break
    else:
        pytest.fail("the README shows no recipe")


def test_the_example_card_loads_and_is_the_readmes():
    card = cards.load(ROOT / "examples" / "doorbell")
    assert card.factory == "doorbell:build"
    assert list(card.inputs) == ["image", "audio"]


def test_the_step_in_the_document_works_as_shown(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "adding-a-variant.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "halve.py").write_text(source)
    monkeypatch.setattr(plugins, "ROOT", tmp_path)
    assert plugins.names("steps") == ["halve"]
    assert plugins.constant.__wrapped__("steps", "halve", "STAGE") == "graph"
    assert plugins.options.__wrapped__("steps", "halve")["keep_below"].default == 0

    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    namespace: dict = {}
    exec(compile(source, "halve.py", "exec"), namespace)
    weight = np.full((2, 2), 1 / 3, np.float32)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph)
    halved = namespace["halve"](model, type("Context", (), {"progress": staticmethod(lambda *_: None)}))
    assert numpy_helper.to_array(halved.graph.initializer[0])[0, 0] == np.float16(1 / 3)
    assert numpy_helper.to_array(model.graph.initializer[0])[0, 0] == np.float32(1 / 3), "a step leaves its argument alone"
    assert isinstance(halved, onnx.ModelProto)
