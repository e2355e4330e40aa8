"""What a tracker is: a place where the records of trainings are kept and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgemm.contracts import plugins
from edgemm.errors import EdgemmError, nearest


class Tracker(Protocol):
    """One record of one training. A plugin's class takes the place, what stands behind the colon of ``--track mlflow:URI``.

    Only the first of several processes has trackers.
    """

    def __init__(self, place: str) -> None:
        """
        Raises:
            EdgemmError: The place cannot be written or reached.
        """
        ...

    def begin(self, name: str, options: Mapping[str, Any]) -> None:
        """A training begins.

        Args:
            name: The folder's, and of a fold its number.
            options: How it is trained, plain values.
        """
        ...

    def epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch ended; of a resumed training those before are told again.

        Args:
            values: Curve, such as ``loss/val`` -> value.
        """
        ...

    def end(self, metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], files: Sequence[Path]) -> None:
        """It was trained and written.

        Args:
            metrics: Split -> output -> metric -> value.
            files: What may be kept beside the record.
        """
        ...

    def fail(self) -> None:
        """It broke off."""
        ...


def opened(tracks: Sequence[str]) -> list[Tracker]:
    """The trackers that ``NAME:PLACE`` mean.

    Raises:
        EdgemmError: A name is unknown, or a place is missing or cannot be used.
        MissingExtra: Its package is not installed.
    """
    trackers = []
    for track in tracks:
        name, _, place = track.partition(":")
        known = plugins.names("trackers")
        if name not in known:
            raise EdgemmError(f"--track {track}: there is no tracker '{name}'.", fix=nearest(name, known))
        if not place:
            raise EdgemmError(f"--track {track} names no place.", fix=f"write {name}:PLACE; `edgemm list trackers` says what it is.")
        trackers.append(plugins.find(Tracker, name)(place))
    return trackers


def numbers_of(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """``split/output/metric`` -> value, of metrics that are one number."""
    return {
        f"{split}/{output}/{name}": float(value)
        for split, outputs in metrics.items()
        for output, values in outputs.items()
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
