"""Who is who from picture to picture: boxes given to tracks by how far they overlap, in two rounds.

Source of the rounds: ByteTrack (Zhang et al., ECCV 2022): sure boxes go first, then the unsure ones to tracks that are still open, so that
somebody half hidden stays who they were. All lengths of time are seconds of the monotonic clock, since rates of pictures vary.
"""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemm.contracts.decision import Box
from edgemm.data.boxes import geometry

SURE, UNSURE, NEW = 0.2, 0.5, 0.3  # least likeness of a box and a track in each round: ByteTrack's 1 - 0.8, 0.5 and 1 - 0.7
ANOTHER_LABEL = 0.3  # taken off the likeness: a parcel is not to take over its bearer's track
DOUBTFUL = 1 / 3  # of ``lost_s``: a track that was not born yet is dropped sooner, it may be a false alarm
STEADY_S = 0.3  # over which a velocity is smoothed: four pictures of 15 a second, two of 5
STILL = 0.6  # overlap with where it stood, from which it stands there yet


@dataclass(eq=False)
class Followed:
    """Something that is followed.

    Attributes:
        box: The newest, in pixels.
        seen_s: When that was.
        hits: How many boxes it had.
        votes: Label -> sum of the scores of its boxes.
        still_since_s: Since when it has hardly moved.
        moves: How often it went on from where it stood.
    """

    id: str
    box: Box
    began_s: float
    began_wall_s: float
    seen_s: float
    still_since_s: float
    hits: int = 0
    moves: int = 0
    best: float = 0.0
    votes: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _velocity: tuple[float, float] = (0.0, 0.0)
    _stood: Box | None = None

    @property
    def label(self) -> str:
        return max(self.votes, key=lambda label: self.votes[label])

    def at(self, at_s: float) -> tuple[float, float, float, float]:
        """Its edges at a moment, if it went on as it did."""
        x, y = (speed * (at_s - self.seen_s) for speed in self._velocity)
        return self.box.x0 + x, self.box.y0 + y, self.box.x1 + x, self.box.y1 + y

    def take(self, box: Box, at_s: float) -> None:
        """Its box of a new picture."""
        passed_s = at_s - self.seen_s
        if self.hits and passed_s > 0:
            self._velocity = self._smoothed(box, passed_s)
        self.box, self.seen_s, self.best = box, at_s, max(self.best, box.score)
        self.hits += 1
        self.votes[box.label] += box.score
        if self._stood is None or overlap(self._stood, box) < STILL:
            self.moves += self._stood is not None
            self._stood, self.still_since_s = box, at_s

    def _smoothed(self, box: Box, passed_s: float) -> tuple[float, float]:
        """Pixels a second; the first few moves count alike, then the newer ones more."""
        share = max(1 - math.exp(-passed_s / STEADY_S), 1 / self.hits)
        moves = (box.x0 + box.x1 - self.box.x0 - self.box.x1) / 2, (box.y0 + box.y1 - self.box.y0 - self.box.y1) / 2
        across, down = (old + share * (move / passed_s - old) for old, move in zip(self._velocity, moves, strict=True))
        return across, down


class Tracker:
    """Follows the boxes of one output.

    Args:
        hits: From so many boxes on a track is born: before, it may be a false alarm.
        lost_s: A track ends that nothing was seen of for so long.
        new_id: Makes an id of the wall clock at a track's start.
    """

    def __init__(self, *, hits: int, lost_s: float, new_id: Callable[[float], str] | None = None) -> None:
        self._hits, self._lost_s, self._new_id = hits, lost_s, new_id or unique_id
        self.followed: list[Followed] = []

    def is_born(self, one: Followed) -> bool:
        return one.hits >= self._hits

    def update(self, sure: Sequence[Box], unsure: Sequence[Box], at_s: float, wall_s: float) -> list[Followed]:
        """Take in the boxes of a picture; ``followed`` then holds every track, those not born yet too.

        Args:
            unsure: Boxes that keep a track alive, but begin none.
            at_s: When the picture was taken, on the monotonic clock; later than the one before.
            wall_s: The same for people.

        Returns:
            Tracks that have ended.
        """
        ended = [one for one in self.followed if at_s - one.seen_s > self._patience_s(one)]
        going = [one for one in self.followed if at_s - one.seen_s <= self._patience_s(one)]
        born, unborn = [one for one in going if self.is_born(one)], [one for one in going if not self.is_born(one)]
        left = self._give(sure, born, SURE, at_s)
        self._give(unsure, [one for one in born if one.seen_s < at_s], UNSURE, at_s)
        left = self._give(left, unborn, NEW, at_s)
        begun = [Followed(self._new_id(wall_s), box, at_s, wall_s, at_s, at_s) for box in left]
        for one in begun:
            one.take(one.box, at_s)
        self.followed = [*going, *begun]
        return [one for one in ended if self.is_born(one)]

    def end(self) -> list[Followed]:
        """End every track, since what comes next is not the same scene: there is a gap. Returns those that were born."""
        ended, self.followed = [one for one in self.followed if self.is_born(one)], []
        return ended

    def _patience_s(self, one: Followed) -> float:
        return self._lost_s if self.is_born(one) else self._lost_s * DOUBTFUL

    def _give(self, boxes: Sequence[Box], tracks: Sequence[Followed], least: float, at_s: float) -> list[Box]:
        """Give each track at most one box, the pair that is most alike first; the boxes that are left."""
        if not boxes or not tracks:
            return list(boxes)
        places = np.array([one.at(at_s) for one in tracks])
        likeness = geometry.iou(places, np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes]))
        labels = [one.label for one in tracks]
        likeness -= ANOTHER_LABEL * (np.array(labels)[:, None] != np.array([box.label for box in boxes])[None])
        given: set[int] = set()
        for row, column in pairs(likeness, least):
            tracks[row].take(boxes[column], at_s)
            given.add(column)
        return [box for index, box in enumerate(boxes) if index not in given]


def pairs(likeness: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Rows and columns matched greedily, the most alike first, each once; pairs less alike than ``least`` are none.

    Args:
        likeness: (rows, columns).
    """
    rows, columns = np.nonzero(likeness >= least)
    order = np.argsort(-likeness[rows, columns], kind="stable")
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in matched and column not in taken:
            matched[row] = column
            taken.add(column)
    return list(matched.items())


def unique_id(wall_s: float) -> str:
    """``<start>-<random>``: no counter, which a restart would begin again."""
    return f"{wall_s:.3f}-{secrets.token_hex(4)}"


def overlap(one: Box, other: Box) -> float:
    """``geometry.iou`` of two boxes, without arrays: it is asked once a box and picture."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    down = min(one.y1, other.y1) - max(one.y0, other.y0)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / max(one.area + other.area - shared, 1e-9)
