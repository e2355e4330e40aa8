"""A bundle in parts and whole: the same answers, stand-ins for what is missing, another runtime for one branch."""

import dataclasses

import numpy as np
import pytest

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving.model import ChosenTarget, choose_target, open_model
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.settings import InputSettings, Settings
from edgemm.errors import RunError
from tests import newcomers
from tests.box.serving.conftest import RATE_HZ, make_bundle


@pytest.fixture(scope="module")
def feed():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (1, 32, 32, 3)).astype(np.uint8)
    return {"image": image, "audio": rng.normal(0, 0.2, (1, RATE_HZ // 2)).astype(np.float32)}


def test_in_parts_and_whole_agree(bundle, whole_bundle, feed):
    with open_model(open_bundle(bundle), "onnxruntime") as parts, open_model(open_bundle(whole_bundle), "onnxruntime") as whole:
        assert parts.in_parts
        assert not whole.in_parts
        answers = [model.answer({name: model.embed(name, array) for name, array in feed.items()}) for model in (parts, whole)]
    np.testing.assert_allclose(answers[0]["event"], answers[1]["event"], atol=1e-5)


def test_a_missing_input_is_replaced_by_its_stand_in(bundle, feed):
    with open_model(open_bundle(bundle), "onnxruntime") as model:
        only = model.answer({"audio": model.embed("audio", feed["audio"])})["event"]
    heard = np.abs(feed["audio"]).mean()
    np.testing.assert_allclose(only, [[0, 8 * 0.5 - 4, 8 * 0.5 + 40 * heard - 16]], atol=1e-4)


def test_a_bundle_without_parts_never_guesses_a_missing_input(whole_bundle, feed):
    with open_model(open_bundle(whole_bundle), "onnxruntime") as model:
        assert model.lacking(["image"]) == ["audio"]
        with pytest.raises(RunError, match="no answer without audio") as caught:
            model.answer({"image": model.embed("image", feed["image"])})
    assert "zeros would be a guess" in str(caught.value)


def test_a_whole_model_trained_with_an_input_missing_does_without_it(shared, feed):
    made = shared("run-bundle-optional", lambda folder: make_bundle(folder, in_parts=False, optional=True)) / "bundle"
    with open_model(open_bundle(made), "onnxruntime") as model:
        assert model.lacking(["image"]) == []
        assert model.answer({"image": model.embed("image", feed["image"])})["event"].shape == (1, 3)


def test_nothing_at_all_is_no_answer(bundle):
    with open_model(open_bundle(bundle), "onnxruntime") as model:
        assert model.lacking([]) == ["image", "audio"]


def test_one_branch_may_run_on_another_target_and_in_float(shared, feed):
    pytest.importorskip("openvino")
    made = shared("run-bundle-both", lambda folder: make_bundle(folder, targets=("onnxruntime", "openvino"))) / "bundle"
    given = {"image": InputSettings(target="openvino"), "audio": InputSettings(precision="fp32")}
    with (
        open_model(open_bundle(made), "onnxruntime", Settings(inputs=given)) as mixed,
        open_model(open_bundle(made), "onnxruntime") as plain,
    ):
        answers = [model.answer({name: model.embed(name, array) for name, array in feed.items()})["event"] for model in (mixed, plain)]
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_a_branch_of_its_own_needs_a_bundle_in_parts(whole_bundle):
    with pytest.raises(RunError, match=r"inputs.image: this bundle holds no branches"):
        open_model(open_bundle(whole_bundle), "onnxruntime", Settings(inputs={"image": InputSettings(precision="fp32")}))


def test_the_target_is_the_bundles_own_unless_somebody_chooses(bundle):
    opened = open_bundle(bundle)
    assert choose_target(opened, None) == ChosenTarget("onnxruntime")
    with pytest.raises(RunError, match="this bundle was not made for 'tensorrt'"):
        choose_target(opened, "tensorrt")


@pytest.fixture
def quartz(tmp_path, monkeypatch):
    """A target that edgemm does not know of, in a folder of one's own."""
    monkeypatch.setenv("EDGEMM_PLUGINS", str(newcomers.write(tmp_path / "own", "targets", "quartz", newcomers.TARGET)))


def test_a_bundle_made_for_a_newcomer_alone_runs_on_it(quartz, tmp_path, feed):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz",)))
    assert choose_target(opened, None) == ChosenTarget("quartz")
    with open_model(opened, "quartz") as model:
        assert model.in_parts
        assert model.answer({name: model.embed(name, array) for name, array in feed.items()})["event"].shape == (1, 3)


def test_the_bundles_order_of_targets_is_the_one_it_was_packed_in(quartz, tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz", "onnxruntime")))
    assert opened.targets() == ["quartz", "onnxruntime"]
    assert choose_target(opened, None) == ChosenTarget("quartz")


def test_a_bundle_whose_only_target_is_missing_is_not_served_by_its_float_model(tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz",)))
    with pytest.raises(RunError, match=r"none of this bundle's targets runs here\.") as caught:
        choose_target(opened, None)
    assert "quartz: there is no target 'quartz'" in caught.value.why
    assert "--target onnxruntime" in caught.value.fix


def test_a_target_that_this_box_cannot_run_is_an_error_that_says_why(tmp_path, monkeypatch):
    own = newcomers.write(tmp_path / "own", "targets", "basalt", newcomers.TARGET_FOR_ANOTHER_BOX)
    monkeypatch.setenv("EDGEMM_PLUGINS", str(own))
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("basalt",)))
    with pytest.raises(RunError, match="none of this bundle's targets runs here") as caught:
        choose_target(opened, None)
    assert "basalt: this box has no quartz in it." in caught.value.why


def test_the_next_of_several_targets_is_said_to_be_the_next(tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz", "onnxruntime")))
    choice = choose_target(opened, None)
    assert choice.target == "onnxruntime"
    assert "quartz: there is no target 'quartz'" in choice.note


def test_the_fallback_that_the_recipe_allowed_is_taken_and_said(tmp_path, monkeypatch):
    own = newcomers.write(tmp_path / "own", "targets", "basalt", newcomers.TARGET_FOR_ANOTHER_BOX)
    monkeypatch.setenv("EDGEMM_PLUGINS", str(own))
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("basalt",), target_options={"fallback": "onnxruntime"}))
    note = "onnxruntime runs what was made for basalt, since basalt: this box has no quartz in it."
    assert choose_target(opened, None) == ChosenTarget("basalt", note)


def test_a_float_model_that_somebody_asked_for_is_said_to_be_one(tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz",)))
    assert choose_target(opened, "onnxruntime") == ChosenTarget(
        "onnxruntime", "onnxruntime runs the float model: the bundle was not made for it."
    )


def test_bundles_from_before_the_order_was_kept_have_their_targets_sorted(quartz, tmp_path):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz", "onnxruntime")))
    old = {key: value for key, value in opened.manifest.items() if key != "targets"}
    assert dataclasses.replace(opened, manifest=old).targets() == ["onnxruntime", "quartz"]


def test_a_run_says_in_log_status_and_summary_that_another_target_runs(tmp_path, caplog):
    opened = open_bundle(make_bundle(tmp_path / "made", targets=("quartz", "onnxruntime")))
    runner = Runner(opened, Settings())
    expected = "onnxruntime runs, since quartz: there is no target 'quartz'."
    assert caplog.messages[0].startswith(expected)
    assert runner.status()["note"].startswith(expected)
    assert f"note: {expected}" in str(runner.summary())
    runner.model.close()
