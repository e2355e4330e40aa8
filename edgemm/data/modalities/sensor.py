"""Sensor windows: float32 of the card's shape into the graph, per-channel normalised into ``forward``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.contracts.frontend_ops import Op, standardizing
from edgemm.contracts.modality import AXES_BY_RANK, TIME, Form, Learned, Modality, TrainSplit
from edgemm.contracts.number_cells import finite, is_npy, numbers, shaped
from edgemm.errors import CardError

FORMS = ("imu=50x6@50hz",)


class Sensor(Modality):
    """A window of measurements, channels on the last axis."""

    def __init__(
        self, *, shape: list[int], rate_hz: float | None = None, mean: list[float] | None = None, std: list[float] | None = None
    ) -> None:
        """
        Args:
            shape: Such as [50, 6]: 50 moments of 6 channels; [6]: one moment.
            rate_hz: Moments a second.
            mean, std: Per channel, written by ``train``: forward gets ``(x - mean) / std``. Without them it gets x.

        Raises:
            CardError: Sizes below 1, or means and deviations that do not fit the channels.
        """
        if not shape or any(size < 1 for size in shape):
            raise CardError(f"shape is {shape}.", fix="write sizes of at least 1, such as [50, 6].")
        if rate_hz is not None and not 0 < rate_hz < float("inf"):
            raise CardError(f"rate_hz is {rate_hz}.", fix="write moments a second, such as 50.")
        if (mean is None) != (std is None):
            raise CardError("mean and std belong together.", why="only one is given.", fix="give both, or neither (train writes them).")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and (len(values) != shape[-1] or not np.isfinite(values).all()):
                raise CardError(
                    f"{name} is {values}.", why=f"shape {shape} has {shape[-1]} channels.", fix="write one finite number a channel."
                )
        if std is not None and min(std) <= 0:
            raise CardError(f"std is {std}.", why="forward gets (x - mean) / std.", fix="write numbers above 0.")
        self._shape, self.rate_hz, self.mean, self.std = tuple(shape), rate_hz, mean, std
        self.frontend()

    def dtype(self) -> str:
        return "float32"

    def shape(self) -> tuple[int | str, ...]:
        return self._shape

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A .npy file, numbers (blank, comma or semicolon between them, or a JSON list), or an array -> float32 window."""
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is found
            return finite(shaped(numbers(cell, folder).astype(np.float32), self._shape, cell))

    def frontend(self) -> list[Op]:
        if self.mean is None or self.std is None:
            return []
        return [standardizing(np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64))]

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """A random walk a channel, around the mean where the card has one."""
        walk = rng.normal(0, 1, self._shape)
        if len(self._shape) > 1:
            walk = np.cumsum(walk, axis=0) / np.sqrt(self._shape[0])
        if self.mean is not None and self.std is not None:
            walk = walk * np.asarray(self.std) + np.asarray(self.mean)
        return walk.astype(np.float32)

    def axes(self) -> tuple[str, ...]:
        rank = len(self._shape)
        return TIME if rank == 1 else AXES_BY_RANK.get(rank, ("value",) * rank)

    def measured(self) -> bool:
        return True

    def encoder(self) -> str:
        """One moment has no time axis to look along."""
        return "tcn" if len(self._shape) > 1 else "mlp"

    def learned(self, train: TrainSplit) -> Learned:
        if self.mean is not None or train.has_weights:
            return Learned()
        mean, std = statistics(train.samples())
        return Learned({"mean": mean, "std": std})

    @classmethod
    def likeness(cls, form: Form) -> int:
        return 1

    @classmethod
    def drafted(cls, form: Form) -> dict[str, Any] | None:
        rate = form.rate_hz
        options: dict[str, Any] = {"shape": [*form.sizes]}
        return options | ({"rate_hz": int(rate) if rate == int(rate) else rate} if rate else {})

    def file_ends(self) -> tuple[str, ...] | None:
        return (".npy",)

    def file(self, cell: Any) -> str | None:
        return cell if is_npy(cell) else None


def statistics(batches: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the channels (last axis) over all samples; 1 for a channel that never changes.

    Source: updating of means and squared deviations by parts, Chan, Golub and LeVeque (1979).
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for batch in batches:
        values = batch.reshape(-1, batch.shape[-1]).astype(np.float64)
        if not len(values):
            continue
        here, total = values.mean(axis=0), count + len(values)
        squares = squares + ((values - here) ** 2).sum(axis=0) + (here - mean) ** 2 * count * len(values) / total
        mean, count = mean + (here - mean) * len(values) / total, total
    deviation = np.sqrt(squares / max(count, 1))
    return mean.tolist(), np.where(deviation > 1e-9 * np.maximum(1.0, np.abs(mean)), deviation, 1.0).tolist()
