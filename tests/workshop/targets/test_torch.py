"""The original model as a session: float32, fed and answered like every other target."""

import numpy as np
import pytest

from edgemm.contracts import plugins
from edgemm.contracts.specs import TensorSpec
from edgemm.contracts.target import Target
from edgemm.errors import CheckpointError, SpecMismatch, TargetError

torch = pytest.importorskip("torch")

CARD = """
factory: porch_model:build
weights: weights.safetensors
inputs: {imu: {modality: sensor, shape: [4, 2], rate_hz: 10}}
outputs: {kind: {task: classification, labels: [a, b, c]}}
"""
MODEL = """
import torch

def build():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3), torch.nn.Dropout(0.5))
"""


@pytest.fixture
def card(tmp_path):
    from safetensors.torch import save_file

    rng = torch.Generator().manual_seed(0)
    weights = {"1.weight": torch.randn(3, 8, generator=rng).half().float(), "1.bias": torch.randn(3, generator=rng)}
    save_file(weights, tmp_path / "weights.safetensors")
    (tmp_path / "porch_model.py").write_text(MODEL)
    (tmp_path / "model.yaml").write_text(CARD)
    return tmp_path / "model.yaml", weights


@pytest.fixture
def target() -> Target:
    return plugins.load(Target, "torch")


def test_it_answers_in_float32_with_dropout_off_and_keeps_its_hands_off_the_input(card, target):
    path, weights = card
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    kept = x.copy()
    with target.open(path, threads=1) as session:
        answer = session.run({"imu": x})["kind"]
        assert session.precision() == "f32"
    expected = x.reshape(5, 8) @ weights["1.weight"].numpy().T + weights["1.bias"].numpy()
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(x, kept)


def test_its_inputs_come_from_the_card_and_its_outputs_from_a_run(card, target):
    with target.open(card[0]) as session:
        assert session.inputs == [TensorSpec("imu", "float32", ("batch", 4, 2))]
        assert session.outputs == [TensorSpec("kind", "float32", ("batch", 3))]


def test_an_array_that_does_not_fit_is_refused_by_name(card, target):
    with target.open(card[0]) as session, pytest.raises(SpecMismatch, match=r"input 'imu' wants \(batch, 4, 2\) float32"):
        session.run({"imu": np.zeros((1, 4, 3), np.float32)})


def test_a_model_that_does_not_take_what_its_card_says_is_told_with_its_line(card, target):
    path, _ = card
    path.write_text(CARD.replace("[4, 2]", "[4, 3]"))
    with pytest.raises(TargetError, match=r"the model failed on a sample, at .*:\d+\.\n  why: RuntimeError: .*'imu' \(1, 4, 3\) float32\."):
        target.open(path)


def test_missing_weights_are_an_error(card, target):
    card[0].with_name("weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        target.open(card[0])


def test_it_is_no_target_to_compile_for(target, tmp_path):
    with pytest.raises(TargetError, match=r"torch is not a target to compile for(?s:.)*choose openvino or onnxruntime"):
        target.compile(tmp_path / "m.onnx", tmp_path)


def test_it_knows_no_bf16(card, target):
    with pytest.raises(TargetError, match=r"torch: runtime option 'precision' is 'bf16'"):
        target.open(card[0], precision="bf16")


def test_without_a_compiler_a_model_is_not_compiled_and_the_reason_is_told(target, card, monkeypatch):
    monkeypatch.setattr("edgemm.workshop.targets.torch.shutil.which", lambda name: None)
    with pytest.raises(TargetError, match=r"torch cannot compile 'model\.yaml' here(?s:.)*calls a C\+\+ compiler(?s:.)*install g\+\+"):
        target.open(card[0], compile="on")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_model_answers_as_the_eager_one(target, card):
    feed = {"imu": np.ones((1, 4, 2), np.float32)}
    with target.open(card[0], compile="on") as compiled, target.open(card[0]) as eager:
        np.testing.assert_allclose(compiled.run(feed)["kind"], eager.run(feed)["kind"], rtol=1e-5)
