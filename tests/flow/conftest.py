"""A person's own small fused model beside its weights, on the porch scenes."""

import textwrap
from pathlib import Path

import pytest

MODEL = '''
import torch
from torch import nn


class Small(nn.Module):
    """Picture and log-mel in, one decision out; keyword-only, as some people write it."""

    def __init__(self, classes):
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.ear = nn.Conv1d(20, 16, 5, 2, 2)
        self.memory = nn.GRU(16, 16, batch_first=True)
        self.gate = nn.Linear(32, 2)
        self.answer = nn.Linear(16, classes)

    def forward(self, *, image, audio):
        seen = self.eye(image).mean((2, 3))
        heard = self.memory(torch.relu(self.ear(audio)).transpose(1, 2))[0][:, -1]
        weight = self.gate(torch.cat([seen, heard], 1)).softmax(1)
        return self.answer(weight[:, :1] * seen + weight[:, 1:] * heard)


def build(classes):
    torch.manual_seed(7)
    return Small(classes)
'''
CARD = """
factory: small:build
kwargs: {classes: 5}
weights: weights.safetensors
inputs:
  image: {modality: image, height: 32, width: 32, channels: 3, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
  audio: {modality: audio, rate_hz: 16000, seconds: 1.0, features: {log_mel: {mels: 20, window_ms: 32, hop_ms: 20}}}
outputs:
  event: {task: classification}
"""


@pytest.fixture(scope="session")
def own_model(shared) -> Path:
    """A folder with small.py, weights.safetensors and model.yaml."""

    def make(folder: Path) -> None:
        import importlib.util

        from safetensors.torch import save_file

        (folder / "small.py").write_text(MODEL)
        (folder / "model.yaml").write_text(textwrap.dedent(CARD))
        spec = importlib.util.spec_from_file_location("small_for_the_test", folder / "small.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        save_file(module.build(5).state_dict(), folder / "weights.safetensors")

    return shared("own-model", make)
