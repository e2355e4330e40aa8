"""What the outputs with boxes show: each one's boxes in the camera's picture, followed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgemm.box.serving.tracking.following import Follower
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.decision import Incident, Observation, Reading, Sample, Track, Tracked
from edgemm.contracts.task import Sizes


@dataclass(frozen=True)
class Told:
    """What a decision says of tracks."""

    readings: Mapping[str, Reading]
    incidents: tuple[Incident, ...] = ()
    news: tuple[Tracked, ...] = ()


class Scenes:
    """Holds what is followed, for every output with boxes. ``update`` once a decision."""

    def __init__(self, card: Card, followers: Mapping[str, Follower]) -> None:
        self._followers = followers
        self._own = {name: task for name, task in tasks.tasks(card).items() if name in followers}
        self._tasks = dict(self._own)
        self._labels = {name: card.outputs[name].labels or () for name in followers}

    def refit(self, fitted: Mapping[str, Mapping[str, float]]) -> None:
        """Take a bundle's thresholds: output -> label -> score (``Bundle.thresholds``)."""
        for name, follower in self._followers.items():
            follower.fitted = fitted.get(name, {})
            self._tasks[name] = self._own[name].counting_from(follower.fitted)

    @property
    def frames(self) -> dict[str, str]:
        """Output -> the input in whose picture its boxes are."""
        return {name: follower.frame for name, follower in self._followers.items()}

    def zones(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Output -> its zones -> the labels that each looks for."""
        return {
            name: {zone: tuple(own.labels or self._labels[name]) for zone, own in follower.zones.items()}
            for name, follower in self._followers.items()
        }

    def shapes(self, frame: str) -> list[list[list[float]]]:
        """Corners of zones and ends of lines in an input's picture."""
        own = [follower for follower in self._followers.values() if follower.frame == frame]
        zones = [zone.points for follower in own for zone in follower.zones.values()]
        return [*zones, *(line.points for follower in own for line in follower.lines.values())]

    def update(
        self,
        outputs: Mapping[str, np.ndarray],
        kept: Mapping[str, Sample],
        sizes: Sizes,
        *,
        begun_s: Callable[[str], float],
        wall_s: float,
        threshold: float | None = None,
    ) -> Told:
        """Take in what the model answered.

        Args:
            kept: Every input that voted -> what its branch got. Where an output's picture did not vote its tracks end.
            sizes: Their pictures' height and width.
            begun_s: When an input's stream began after its last hole.
            threshold: As ``Follower.update``.
        """
        readings: dict[str, Reading] = {}
        incidents: list[Incident] = []
        news: list[Tracked] = []
        for name, follower in self._followers.items():
            sample = kept.get(follower.frame)
            if sample is None:
                scene, scores = follower.end(), None
            else:
                seen, (height, width) = self.seen(name, outputs, sizes), sizes[follower.frame]
                begun, scores = begun_s(follower.frame), seen.scores
                scene = follower.update(seen.boxes, (width, height), sample.time_s, wall_s, begun_s=begun, threshold=threshold)
            readings[name] = _reading(scores, scene.tracks)
            incidents += scene.incidents
            news += scene.news
        return Told(readings, tuple(incidents), tuple(news))

    def end(self, present: Collection[str] = ()) -> Told:
        """End the tracks of outputs whose picture is not ``present``; only those outputs are told, and only where something ends."""
        gone = [follower for follower in self._followers.values() if follower.tracks and follower.frame not in present]
        scenes = {follower.output: follower.end() for follower in gone}
        return Told(
            {name: _reading(None, ()) for name in scenes},
            tuple(incident for scene in scenes.values() for incident in scene.incidents),
            tuple(one for scene in scenes.values() for one in scene.news),
        )

    def seen(self, name: str, outputs: Mapping[str, np.ndarray], sizes: Sizes) -> Observation:
        """What an answer says of an output, its boxes in pixels of the camera's picture; what lies in the bars around it is left out."""
        task = self._tasks[name]
        placed = task.placed(task.read(outputs) or Observation(), sizes)
        return replace(placed, boxes=tuple(box for box in placed.boxes if box.area > 0))


def _reading(scores: Mapping[str, float] | None, tracks: tuple[Track, ...]) -> Reading:
    labels = dict.fromkeys(track.label for track in tracks)
    return Reading(scores=scores, on=tuple(labels), tracks=tracks)
