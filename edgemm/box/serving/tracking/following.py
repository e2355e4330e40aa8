"""One output's boxes, picture after picture: tracks, what they do at zones and lines, and what of it is news."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemm.box.serving.tracking.areas import Areas, Step
from edgemm.box.serving.tracking.settings import LineSettings, TrackSettings, ZoneSettings
from edgemm.box.serving.tracking.tracker import Followed, Tracker
from edgemm.contracts.decision import Box, Incident, Track, Tracked

THRESHOLD = 0.5  # ByteTrack's between sure and unsure, where neither the settings nor the bundle say one
NEWS_S = 1.0  # between two messages of one track
SURER = 0.05  # a best score that is higher by so much is news


@dataclass(frozen=True)
class Scene:
    """What is followed after a picture.

    Attributes:
        tracks: Those that were born and have not ended, the oldest first.
        incidents: What they did, in order.
        news: What is told of them, in order.
    """

    tracks: tuple[Track, ...] = ()
    incidents: tuple[Incident, ...] = ()
    news: tuple[Tracked, ...] = ()


@dataclass
class _Known:
    """What is kept of something that is followed.

    Attributes:
        steps: What it did that was not told, since it is not born yet.
        told: As it was told last, at ``told_s``.
        size: Width and height of the picture that showed it last.
    """

    steps: list[Step] = field(default_factory=list)
    entered: tuple[str, ...] = ()
    told: Track | None = None
    told_s: float = 0.0
    size: tuple[int, int] = (1, 1)


class Follower:
    """Follows one output's boxes.

    Args:
        frame: The input in whose picture they are.
        zones, lines: Those in that picture.
        lost_s: A track ends that nothing was seen of for so long.

    Attributes:
        fitted: Label -> score from which the bundle says a box counts; the settings win over it.
        tracks: What is followed now.
    """

    def __init__(
        self,
        output: str,
        frame: str,
        settings: TrackSettings,
        *,
        lost_s: float,
        zones: Mapping[str, ZoneSettings] | None = None,
        lines: Mapping[str, LineSettings] | None = None,
    ) -> None:
        self.output, self.frame, self.zones, self.lines = output, frame, zones or {}, lines or {}
        self._given = settings
        self.fitted: Mapping[str, float] = {}
        self._has_places, self._areas = bool(self.zones or self.lines), Areas(self.zones, self.lines)
        self._tracker = Tracker(hits=settings.hits, lost_s=lost_s)
        self._known: dict[str, _Known] = {}
        self._newest_s = float("-inf")
        self.tracks: tuple[Track, ...] = ()

    def update(
        self, boxes: Sequence[Box], size: tuple[int, int], at_s: float, wall_s: float, *, begun_s: float, threshold: float | None = None
    ) -> Scene:
        """Take in the boxes of a picture; of one that was taken in already nothing is new.

        Args:
            boxes: In pixels of the camera's picture, which is ``size`` wide and high.
            at_s, wall_s: When it was taken, on the monotonic and on the wall clock.
            begun_s: When its stream began after its last hole: tracks from before it end.
            threshold: Replaces every label's own; None = as in the settings.
        """
        if at_s == self._newest_s:
            return Scene(self.tracks)
        has_gap = at_s < self._newest_s or self._newest_s < begun_s
        ended = self._tracker.end() if has_gap else []
        self._newest_s = at_s
        sure = [box for box in boxes if box.score >= self._threshold(box.label, threshold)]
        unsure = [box for box in boxes if self._given.release <= box.score < self._threshold(box.label, threshold)]
        ended += self._tracker.update(sure, unsure, at_s, wall_s)
        return self._scene(ended, size, at_s)

    def end(self) -> Scene:
        """End every track: its camera is away, or switched off."""
        return self._scene(self._tracker.end(), (1, 1), self._newest_s)

    def _threshold(self, label: str, everywhere: float | None) -> float:
        if everywhere is not None:
            return everywhere
        given = self._given
        chosen = given.thresholds.get(label, given.threshold)
        return chosen if chosen is not None else self.fitted.get(label, THRESHOLD)

    def _scene(self, ended: Sequence[Followed], size: tuple[int, int], at_s: float) -> Scene:
        incidents: list[Incident] = []
        news: list[Tracked] = []
        for one in ended:
            left = self._areas.forget(one.id)
            track = self._track(one, at_s)
            incidents += self._incidents(track, left)
            news.append(Tracked("end", self._known[one.id].told, track))
        steps = self._look(size, at_s)
        self._forget_others()
        tracks = []
        for one in self._tracker.followed:
            known = self._known.setdefault(one.id, _Known())
            known.size = size if one.seen_s == at_s else known.size
            known.steps += steps.get(one.id, [])
            known.entered += tuple(step.place for step in known.steps if step.kind == "entered" and step.place not in known.entered)
            if self._tracker.is_born(one):
                tracks.append(track := self._track(one, at_s))
                incidents += self._incidents(track, known.steps)
                news += self._news(known, track, at_s)
                known.steps = []
        self.tracks = tuple(tracks)
        return Scene(self.tracks, tuple(incidents), tuple(news))

    def _look(self, size: tuple[int, int], at_s: float) -> dict[str, list[Step]]:
        """What those that this picture shows did at zones and lines."""
        seen = [one for one in self._tracker.followed if one.seen_s == at_s]
        width, height = size
        places = np.array([((one.box.x0 + one.box.x1) / 2 / width, one.box.y1 / height) for one in seen]).reshape(-1, 2)
        return self._areas.look([one.id for one in seen], [one.label for one in seen], places, at_s)

    def _forget_others(self) -> None:
        """Forget what has ended, and false alarms."""
        for id in self._known.keys() - {one.id for one in self._tracker.followed}:
            self._areas.forget(id)
            del self._known[id]

    def _incidents(self, track: Track, steps: Sequence[Step]) -> Iterator[Incident]:
        if track.label in self._given.quiet:
            return
        if not self._has_places and self._known[track.id].told is None:
            yield Incident("appeared", track)
        for step in steps:
            yield Incident(step.kind, track, step.place, step.side)

    def _news(self, known: _Known, track: Track, at_s: float) -> list[Tracked]:
        told = known.told
        if told is not None and (at_s - known.told_s < NEWS_S or not _differs(track, told)):
            return []
        known.told, known.told_s = track, at_s
        return [Tracked("new", None, track) if told is None else Tracked("update", told, track)]

    def _track(self, one: Followed, at_s: float) -> Track:
        known = self._known[one.id]
        return Track(
            one.id,
            self.output,
            one.label,
            one.box.score,
            one.best,
            one.box,
            known.size,
            one.began_s,
            one.seen_s,
            one.began_wall_s,
            self._areas.zones_of(one.id),
            known.entered,
            max(0.0, at_s - one.still_since_s),
            one.moves,
            one.seen_s == at_s,
        )


def _differs(track: Track, told: Track) -> bool:
    moved = (track.label, track.zones, track.is_standing) != (told.label, told.zones, told.is_standing)
    return moved or track.best >= told.best + SURER
