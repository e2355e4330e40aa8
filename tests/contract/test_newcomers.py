"""One variant of each kind, in a folder of one's own, and the whole way with them: not a line of edgemm is changed for any."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgemm import benchmark, compress, export, init, list, quantize, run, train, verify
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.errors import CardError, RecipeError
from tests import newcomers

CARD = """
factory: models:image-only
kwargs:
  fusion: {brew: {}}
  heads: {state: {deep: {hidden: 6}}}
inputs:
  plate: {modality: thermal, size: 4}
outputs:
  state: {task: classification, labels: [cold, hot]}
train: {augment: {thermal: [{warmth: {degrees: 1.0}}]}}
"""
RECIPE = """
steps:
  - halve: {keep_below: 4}
  - quantize: {calibration_samples: 16}
targets: {quartz: {brand: rose}}
for: size
budgets: {accuracy_drop_points: 100}
"""
ROWS = {"train": 128, "val": 32, "test": 32}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    """EDGEMM_PLUGINS names a folder with a newcomer of each kind."""
    folder = tmp_path_factory.mktemp("own")
    for kind, (name, text) in newcomers.ALL.items():
        newcomers.write(folder, kind, name, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEMM_PLUGINS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that consists of newcomers."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model.yaml").write_text(CARD)
    rng = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["split", "plate", "state"])
        for split, count in ROWS.items():
            for number in range(count):
                state = ("cold", "hot")[number % 2]
                plate = rng.normal((20, 80)[number % 2], 10, 16).round(2)
                rows.writerow([split, " ".join(map(str, plate)), state])
    options = {"epochs": 12, "batch_size": 16, "learning_rate": 1e-2, "track": [f"diary:{folder / 'diary'}"]}
    return train(folder / "model.yaml", folder / "manifest.csv", folder / "made", **options).folder


@pytest.fixture(scope="module")
def compressed(trained: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("compressed")
    (folder / "rose.yaml").write_text(RECIPE)
    return compress(trained, recipe=folder / "rose.yaml", data=trained.parent / "manifest.csv", output=folder / "bundle")


def test_a_training_is_changed_by_an_augmentation_and_kept_by_a_tracker_of_ones_own(trained):
    lines = (trained.parent / "diary").read_text().splitlines()
    assert lines[0] == "made begins, 16 rows a step"
    assert lines[1] == "1: learning rate/learning rate, loss/train, loss/val, state accuracy/val"
    assert "test/state/accuracy" in lines[-1]
    assert lines[-1].endswith("report.html, model.yaml")
    assert "degrees: 1.0" in (trained / "train.yaml").read_text()


@pytest.mark.parametrize("kind", newcomers.ALL)
def test_a_newcomer_of_each_kind_is_found_with_its_options(own, kind):
    name, _ = newcomers.ALL[kind]
    assert name in plugins.names(kind)
    assert plugins.source(kind, name).is_relative_to(own)
    if kind != "probes":
        assert name in list(kind).to_dict()[kind]


def test_a_modality_of_ones_own_with_its_encoder_fusion_and_head_learns(trained):
    from edgemm.workshop.models.checkpoint.loading import load_model

    module = load_model(cards.load(trained)).module
    assert [type(part).__name__ for part in (module.encoders["plate"], module.fusion, module.heads["state"])] == ["Patches", "Brew", "Deep"]
    assert '"accuracy": 1.0' in (trained / "metrics.json").read_text()


@pytest.fixture
def plates(own, tmp_path, monkeypatch) -> str:
    """A factory in the current directory."""
    (tmp_path / "plates.py").write_text("from torch import nn\nbuild = lambda: nn.Sequential(nn.Flatten(1), nn.Linear(16, 2))\n")
    monkeypatch.chdir(tmp_path)
    return "plates:build"


def test_init_drafts_a_card_with_a_modality_of_ones_own(plates):
    assert "    modality: thermal\n    size: 4\n" in init(plates, inputs=["plate=thermal:4x4"]).read_text()


def test_init_hands_on_what_a_modality_of_ones_own_refuses(plates):
    with pytest.raises(CardError, match=r"input 'plate=thermal:4x5': a plate is as wide as high\."):
        init(plates, inputs=["plate=thermal:4x5"])


def test_a_recipe_runs_a_step_of_ones_own_for_a_target_of_ones_own(compressed):
    assert verify(compressed.bundle).ok
    (accuracy,) = compressed.report.find("accuracy", subject="bundle", target="quartz", output="state")
    assert accuracy.value == 1.0
    assert compressed.report.find("latency_p50_ms", subject="bundle", target="quartz")


def test_a_step_of_ones_own_changes_the_graph(trained, tmp_path):
    import onnx
    from onnx import numpy_helper

    (tmp_path / "halve.yaml").write_text("steps: [{halve: {}}]\ntargets: {quartz: {}}\nfor: size\n")
    exported = export(trained, output=tmp_path / "float")
    (made,) = quantize(exported.main, recipe=tmp_path / "halve.yaml", output=tmp_path / "halved")
    weights = {weight.name: numpy_helper.to_array(weight) for weight in onnx.load(made).graph.initializer}
    weights = {name: value for name, value in weights.items() if value.dtype == np.float32}
    assert weights
    assert all(np.array_equal(value, value.astype(np.float16).astype(np.float32)) for value in weights.values())


def test_a_recipes_mistake_in_a_target_of_ones_own_is_told(own, trained, tmp_path):
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("brand", "brandt"))
    with pytest.raises(RecipeError, match=r"targets\.quartz: unknown key 'brandt'(.|\n)*did you mean 'brand'"):
        compress(trained, recipe=tmp_path / "bad.yaml", data=trained.parent / "manifest.csv", output=tmp_path / "bundle")


def test_a_bundle_for_a_target_of_ones_own_is_benchmarked_in_worker_processes(compressed):
    report = benchmark([compressed.bundle], rounds=5, calls=4)
    assert report.find("latency_p50_ms", subject="bundle", target="quartz")


def test_what_a_probe_of_ones_own_counts_stands_in_the_report(compressed):
    report = benchmark([compressed.bundle], rounds=5, calls=4)
    assert report.find("calls", subject="bundle", target="quartz")


def test_a_source_of_ones_own_feeds_a_run_on_a_target_of_ones_own_and_a_sink_receives(compressed, tmp_path):
    done = run(compressed.bundle, source=["plate=oven:40"], sink=[f"log:{tmp_path / 'events.txt'}"], quiet=True, fast=True)
    assert (done.target, done.note) == ("quartz", "")
    assert done.decisions > 0
    assert (tmp_path / "events.txt").read_text().splitlines() == ["plate begins", "cold", "hot", "end"]


def test_without_the_folder_nothing_is_left_of_them(own, monkeypatch):
    monkeypatch.delenv("EDGEMM_PLUGINS")
    assert not [name for kind, (name, _) in newcomers.ALL.items() if name in plugins.names(kind)]
    assert "EDGEMM_PLUGINS" not in os.environ
