"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest
import yaml

import edgemm
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts import recipe as recipes
from edgemm.contracts.modality import modalities
from edgemm.data.modalities._audio.features import MFCC_KEYS
from edgemm.data.modalities._audio.features import parse as parse_features

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
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


def section(page: str, title: str) -> str:
    """A page from a heading, or from a paragraph that begins with the title in bold, to the next one."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.search(rf"^(?:## {title}\n|\*\*{title}\*\*)(.*?)(?=^## |^\*\*|\Z)", text, re.DOTALL | re.MULTILINE).group(1)


def defaults_told(text: str) -> dict[str, str]:
    """Option -> its default, from the rows ``| `a`, `b` | 1, 2 | meaning |`` of a section; one default may stand for all of a row."""
    told = {}
    for names, defaults in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", text, re.MULTILINE):
        keys, values = re.findall(r"\w+", names), defaults.strip().replace("`", "").split(", ")
        told.update(zip(keys, values if len(values) == len(keys) else values * len(keys), strict=True))
    return told


def agrees(told: str, option: plugins.Option) -> bool:
    if option.required:
        return told == "required"
    return told.replace(" ", "") == str(option.default).replace(" ", "") or yaml.safe_load(told) == option.default


@pytest.mark.parametrize(
    ("page", "folder", "name"),
    [(page, folder, name) for page, folder in (("card.md", "modalities"), ("recipe.md", "steps")) for name in plugins.names(folder)],
    ids=lambda word: word,
)
def test_every_option_of_a_step_and_of_a_modality_stands_in_the_reference_with_its_default(page, folder, name):
    told = defaults_told(section(page, name))
    for key, option in plugins.options(folder, name).items():
        assert key in told, f"{page} does not say what {name}.{key} is"
        assert agrees(told[key], option), f"{page} says that {name}.{key} is {told[key]} where nobody says otherwise"
    assert set(told) - set(plugins.options(folder, name)) <= set(MFCC_KEYS if name == "audio" else ())


def test_every_key_of_sound_features_stands_in_the_reference_with_its_default():
    told = defaults_told(section("card.md", "audio"))
    assert set(MFCC_KEYS) <= set(told)
    mel = parse_features({"mfcc": {}}, rate_hz=16000, samples=16000)
    for key in MFCC_KEYS:
        assert yaml.safe_load(told[key]) == getattr(mel, key), f"card.md says that {key} is {told[key]}"


def test_the_reference_names_every_key_task_target_option_budget_and_recipe():
    card, recipe = ((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("card.md", "recipe.md"))
    tasks = plugins.names("tasks")
    options = [key for task in tasks for key in plugins.options("tasks", task)]
    for key in (*cards.KEYS, *cards.INPUT_KEYS, "task", *tasks, *options):
        assert re.search(rf"`{key}(?:`|:)", card), f"card.md does not name {key}"
    for name in [*recipes.BUDGETS, *recipes.shipped()]:
        assert f"`{name}`" in recipe, f"recipe.md does not name {name}"
    for target in plugins.names("targets"):
        row = re.search(rf"^\| `{target}` \| (.*)", recipe, re.MULTILINE)
        for key in plugins.options("targets", target):
            assert row, f"recipe.md does not name {target}"
            assert f"`{key}`" in row.group(1), f"recipe.md does not say what {target}.{key} is"


@pytest.mark.parametrize("page", ["card.md", "recipe.md"])
def test_the_references_own_example_is_a_good_one(page):
    plain = yaml.safe_load(re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL).group(1))
    assert cards.parse(plain).inputs if page == "card.md" else recipes.parse(plain).steps
    assert len((ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()) < 170


def test_the_front_end_shown_for_torchaudios_features_computes_them():
    """Held against torch's Fourier transform and transformers' mel bands: torchaudio itself is not needed for it."""
    import numpy as np
    import torch
    from transformers.audio_utils import mel_filter_bank

    shown = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "card.md").read_text(encoding="utf-8"), re.DOTALL)[-1])
    card = cards.parse({"factory": "a:b", "inputs": shown, "outputs": {"y": {"task": "tensor"}}})
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 16000)).astype(np.float32)
    ours = wave
    for op in modalities(card)["audio"].frontend():
        ours = op(ours)
    window = torch.hann_window(400)
    spectrum = torch.stft(torch.from_numpy(wave), 512, 160, 400, window, center=True, pad_mode="reflect", return_complex=True)
    bank = mel_filter_bank(257, 64, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    theirs = np.log(np.swapaxes(np.swapaxes(spectrum.abs().numpy() ** 2, 1, 2) @ bank, 1, 2) + 1e-6)
    assert ours.shape == theirs.shape == (1, 64, 101)
    assert np.abs(ours - theirs).max() < 1e-3


def test_the_example_card_loads_and_is_the_readmes():
    card = cards.load(ROOT / "examples" / "doorbell")
    assert card.factory == "doorbell:build"
    assert list(card.inputs) == ["image", "audio"]


def test_the_step_in_the_document_works_as_shown(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "adding-a-variant.md").read_text(encoding="utf-8")
    source = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    (tmp_path / "workshop" / "steps").mkdir(parents=True)
    (tmp_path / "workshop" / "steps" / "halve.py").write_text(source)
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
