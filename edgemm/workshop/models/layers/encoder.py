"""Small parts that several encoders share."""

from __future__ import annotations

from torch import Tensor, nn

from edgemm.contracts.modality import AXES_BY_RANK, BANDS_OVER_TIME, PICTURE_AXES, TIME
from edgemm.errors import CardError
from edgemm.workshop.models.layers.text import last_token, masked_mean
from edgemm.workshop.models.protocols import Encoder, Features

TIME_AND_CHANNELS = AXES_BY_RANK[2]


class Pooled(nn.Module):
    """Ends a convolutional encoder: dropout, then one linear layer on the mean over space, or on all of it.

    Args:
        channels: Channels of the map it receives.
        cells: Number of cells of that map (height x width), used by ``flatten``.
        pool: ``mean`` over all cells, or ``flatten``, which keeps where things are.
    """

    def __init__(self, channels: int, cells: int, width: int, pool: str, dropout: float) -> None:
        super().__init__()
        self.flatten = pool == "flatten"
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels * (cells if self.flatten else 1), width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, width)."""
        return self.project(self.dropout(x.flatten(1) if self.flatten else x.mean((2, 3))))

    def tokens(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, H * W, width), one token a cell; with ``flatten`` the whole map is one token."""
        return self(x).unsqueeze(1) if self.flatten else self.project(x.flatten(2).transpose(1, 2))


class MapEncoder(Encoder):
    """A picture through ``layers`` to a map of cells, and that ``pooled``; a plugin sets both."""

    layers: nn.Sequential
    pooled: Pooled

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.pooled(self.layers(as_picture(x)))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.pooled.tokens(self.layers(as_picture(x))), None


class StatesEncoder(Encoder):
    """One linear layer, ``project``, on each of the states that a plugin gives, or on their mean or the last of them."""

    pool: str = "mean"
    project: nn.Linear

    def states(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(N, T, hidden), and the mask over them as ``tokens`` gives it."""
        raise NotImplementedError

    def pooled(self, states: Tensor, counts: Tensor | None) -> Tensor:
        """(N, hidden)."""
        if self.pool == "last":
            return states[:, -1] if counts is None else last_token(states, counts)
        return states.mean(1) if counts is None else masked_mean(states, counts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.project(self.pooled(*self.states(x, mask)))

    def tokens(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        states, counts = self.states(x, mask)
        return self.project(states), counts


class RecurrentEncoder(StatesEncoder):
    """Blanks a share of what it pooled in training."""

    dropout: nn.Dropout

    def pooled(self, states: Tensor, counts: Tensor | None) -> Tensor:
        return self.dropout(super().pooled(states, counts))


def conv_norm(inside: int, outside: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (over ``stride``), then batch norm."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outside)
    )


def picture_shape(features: Features, encoder: str) -> tuple[int, int, int]:
    """(channels, height, width) of a picture; a sound's (mels, frames) counts as a picture of one channel.

    Raises:
        CardError: Neither of both.
    """
    if features.axes == PICTURE_AXES:
        channels, height, width = features.shape
        return channels, height, width
    if features.axes == BANDS_OVER_TIME:
        height, width = features.shape
        return 1, height, width
    raise features.unfit(encoder, "a picture (channels, height, width), or sound as (mels, frames)")


def as_picture(x: Tensor) -> Tensor:
    """(N, mels, frames) -> (N, 1, mels, frames); a picture stays as it is."""
    return x.unsqueeze(1) if x.dim() == 3 else x


def series_shape(features: Features, encoder: str) -> tuple[int, int]:
    """(channels, time) of a series: sound is (mels, frames) or (samples,), a sensor (time, channels) or (time,).

    Raises:
        CardError: Something else.
    """
    if features.axes == TIME:
        return 1, features.shape[0]
    if features.axes in (BANDS_OVER_TIME, TIME_AND_CHANNELS):
        first, second = features.shape
        return (first, second) if features.axes == BANDS_OVER_TIME else (second, first)
    raise features.unfit(encoder, "sound as (mels, frames) or (samples,), or a sensor of shape [time, channels]")


class AsSeries(nn.Module):
    """Brings every series into (N, channels, time)."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.flat = len(features.shape) == 1
        self.time_first = features.axes == TIME_AND_CHANNELS

    def forward(self, x: Tensor) -> Tensor:
        if self.flat:
            return x.unsqueeze(1)
        return x.transpose(1, 2) if self.time_first else x


def require_one_direction(encoder: str, pool: str, bidirectional: bool) -> None:
    """Raises CardError where ``pool: last`` would see only one step of the backward direction."""
    if pool == "last" and bidirectional:
        raise CardError(
            f"encoder '{encoder}': 'pool: last' and 'bidirectional: true' do not go together.",
            why="the last step holds the end of the forward and the start of the backward reading.",
            fix="set pool: mean, or bidirectional: false.",
        )


def halved(size: int, times: int) -> int:
    """Size after ``times`` strides of 2 with padding that keeps the size: rounded up each time."""
    for _ in range(times):
        size = (size + 1) // 2
    return size
