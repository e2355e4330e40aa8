"""What the page writes beside the picture of a decision: names at boxes and points, the colours of masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.box.serving import drawing
from edgemm.contracts.decision import Decision, Marks, Point, Pose, Track
from edgemm.contracts.sink import track_dict


class Captions:
    """Of the picture that is shown: the first of a decision.

    Attributes:
        tracks: What is followed in it and to be seen there.
        marks: Points and masks in it.
    """

    def __init__(self, decision: Decision, frames: Mapping[str, str]) -> None:
        """
        Args:
            frames: Output with boxes -> the input in whose picture they are.
        """
        shown = next(iter(decision.frames), "")
        own = [decision.readings[output] for output, frame in frames.items() if frame == shown and output in decision.readings]
        self.tracks: list[Track] = [track for reading in own for track in reading.tracks or () if track.is_seen]
        self._marks = {name: one.marks for name, one in decision.readings.items() if one.marks and one.marks.frame == shown}
        self.marks: list[Marks] = list(self._marks.values())

    def tags(self) -> list[dict[str, Any]]:
        """What is written at boxes and points; short, since headers have a bound."""
        tags = []
        for track in self.tracks:
            plain = track_dict(track)
            tags.append(
                {key: plain[key] for key in ("id", "label", "score", "box_relative")} | {"colour": _css(drawing.colour(track.label))}
            )
        posed = [(pose, marks.size, drawing.drawable(pose, marks.size)) for marks in self.marks for pose in marks.poses]
        return tags + [_tag(pose, size, points) for pose, size, points in posed if points]

    def colours(self) -> dict[str, dict[str, str]]:
        """Output with a mask -> label -> its colour."""
        masks = {name: marks.mask for name, marks in self._marks.items() if marks.mask}
        return {name: {label: _css(own) for label, own in drawing.mask_colours(mask.labels).items()} for name, mask in masks.items()}


def _tag(pose: Pose, size: tuple[int, int], points: list[Point]) -> dict[str, Any]:
    """At the box around the points that are drawn."""
    across, down = [point.x / size[0] for point in points], [point.y / size[1] for point in points]
    box = [round(edge, 5) for edge in (min(across), min(down), max(across), max(down))]
    return {"label": pose.label, "score": round(pose.score, 4), "box_relative": box, "colour": _css(drawing.colour(pose.label))}


def _css(colour: tuple[int, int, int]) -> str:
    return "rgb({}, {}, {})".format(*colour)
