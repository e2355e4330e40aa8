"""Somebody's own fused model, written without edgemm: a camera and a microphone at a front door."""

import torch
from torch import Tensor, nn


class Doorbell(nn.Module):
    """A picture and a log-mel spectrogram -> which of ``classes`` events it is."""

    def __init__(self, classes: int, width: int = 96) -> None:
        super().__init__()
        self.eye = _convolutions(3, width)
        self.ear = _convolutions(1, width)
        self.gate = nn.Linear(2 * width, 2)
        self.decide = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``image`` (N, 3, 64, 64) and ``audio`` (N, mels, frames), both float32 -> logits (N, classes)."""
        seen, heard = self.eye(image), self.ear(audio.unsqueeze(1))
        trust = torch.softmax(self.gate(torch.cat([seen, heard], 1)), 1)
        return self.decide(torch.cat([seen * trust[:, :1], heard * trust[:, 1:]], 1))


def build(classes: int = 5) -> Doorbell:
    """What the card's ``factory: doorbell:build`` names."""
    return Doorbell(classes)


def _convolutions(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((channels, 16), (16, 32), (32, 64), (64, width)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
