"""Bundles, cards, weights, prune records and recipes of edgemm 0.1 are read as they were; `tests/fixtures/v0_1` is such a set."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import edgemm
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.model import open_model
from edgemm.contracts import card_file as cards
from edgemm.contracts import recipe as recipes
from edgemm.errors import BundleError
from edgemm.store.instructions import saturates
from edgemm.workshop.models.build import build
from edgemm.workshop.models.checkpoint.loading import load_model

V0_1 = Path(__file__).parents[1] / "fixtures" / "v0_1"
BUNDLE = V0_1 / "bundle.edgemm"
PARAMETERS = json.loads((V0_1 / "parameters.json").read_text())
needs_onnxruntime = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


def test_a_bundle_opens_with_its_card_targets_golden_samples_parts_stand_ins_ledger_and_report():
    bundle = open_bundle(BUNDLE)
    assert bundle.manifest["provenance"]["edgemm"] == "0.1.0"
    assert list(bundle.card.inputs) == ["photo", "audio"]
    assert bundle.card.columns == {"picture": "photo"}
    assert bundle.targets() == ["onnxruntime"]
    assert bundle.target_options("onnxruntime").target == {"threads": 1}
    assert set(bundle.golden().inputs) == {"photo", "audio"}
    assert set(bundle.split("onnxruntime").branches) == {"photo", "audio"}
    assert bundle.standins()
    assert {row.output for row in bundle.ledger()} == {"event", "level"}
    assert bundle.report().details.notes


@needs_onnxruntime
def test_a_bundle_is_verified_its_golden_samples_too():
    if saturates():  # its weights have 8 bits: what that does to sums here is found
        with pytest.raises(
            BundleError, match=r"'event' is off by(.|\n)*where sums of INT8 with 8-bit weights overflow: compress the model here"
        ):
            edgemm.verify(BUNDLE)
        return
    verification = edgemm.verify(BUNDLE)
    assert verification.ok, verification
    assert any("golden" in check.name for check in verification.checks)


@needs_onnxruntime
def test_a_bundle_is_measured(tmp_path):
    report = edgemm.benchmark([BUNDLE], rounds=2, calls=2, launches=0, roofline=False, output=tmp_path)
    assert {row.candidate for row in report.measurements if row.name == "latency_p50_ms"} == {str(BUNDLE)}
    assert (tmp_path / "report.html").is_file()


@needs_onnxruntime
def test_run_opens_a_bundle_in_parts_and_does_without_an_input():
    golden = open_bundle(BUNDLE).golden()
    with open_model(open_bundle(BUNDLE), "onnxruntime") as model:
        photo = model.embed("photo", golden.inputs["photo"][0])
        both = model.answer({"photo": photo, "audio": model.embed("audio", golden.inputs["audio"][0])})
        assert model.in_parts
        assert model.answer({"photo": photo})["event"].shape == (1, 3)
    np.testing.assert_allclose(both["event"], golden.outputs["onnxruntime"]["event"][0], atol=1.0 if saturates() else 1e-3)


@pytest.mark.parametrize("checkpoint", ["trained", "pruned"])
def test_a_checkpoint_answers_what_it_answered_then(checkpoint):
    with np.load(V0_1 / "answers.npz") as file:
        arrays = dict(file)
    inputs = {name.removeprefix("input:"): torch.from_numpy(value) for name, value in arrays.items() if name.startswith("input:")}
    with torch.no_grad():
        answers = load_model(cards.load(V0_1 / checkpoint))(inputs)
    assert set(answers) == {"event", "level"}
    for name, value in answers.items():
        np.testing.assert_allclose(value.numpy(), arrays[f"{checkpoint}:{name}"], atol=1e-5)


def test_a_prune_record_leaves_fewer_parameters_than_the_card_alone_would_have():
    sizes = [sum(value.numel() for value in load_model(cards.load(V0_1 / name)).parameters()) for name in ("trained", "pruned")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_trained_for_a_shipped_card_still_fit_it(name):
    shapes = {key: list(value.shape) for key, value in build(cards.load(name)).state_dict().items()}
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    assert digest == PARAMETERS[name], f"the parameters of '{name}' have other names or shapes than those of 0.1"


def test_a_recipe_loads_with_its_steps_precision_and_budgets():
    recipe = recipes.load(V0_1 / "recipe.yaml", card=cards.load(V0_1 / "trained"))
    assert [step.name for step in recipe.steps] == ["prune", "quantize"]
    assert recipe.steps[1].options["precision"] == {"head": "fp32"}
    assert recipe.targets == {"onnxruntime": {"threads": 1}}
    assert recipe.budgets == {"accuracy_drop_points": {"event": 100}, "size_mib": 5}


def test_a_card_and_a_recipe_of_then_compress_now(tmp_path):
    with np.load(V0_1 / "answers.npz") as file:
        arrays = {name.removeprefix("input:"): np.repeat(value, 8, axis=0) for name, value in file.items() if name.startswith("input:")}
    rows = {"picture": arrays["photo"], "audio": arrays["audio"], "event": np.arange(16) % 3, "level": np.zeros(16, np.float32)}
    for split in ("train", "val", "test"):
        np.savez(tmp_path / f"{split}.npz", **rows)
    made = edgemm.compress(V0_1 / "pruned", recipe="onnxruntime-int8", output=tmp_path / "bundle", data=tmp_path)
    assert edgemm.verify(made.bundle).ok
