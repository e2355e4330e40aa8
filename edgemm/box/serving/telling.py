"""Decisions to events: what went on, what tracks did, which inputs say so, and the picture of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edgemm.box.serving.drawing import cropped, scene
from edgemm.box.serving.scheduling import Engine
from edgemm.box.serving.shares import Said, Sharing
from edgemm.box.serving.tracking.tracker import overlap
from edgemm.contracts.decision import Box, Change, Decision, Incident, Marks, Observation, Track
from edgemm.contracts.report import Measurement
from edgemm.contracts.sink import Event

PICTURE_WIDTH = 640  # of pictures that go out with an event
THERE = 0.5  # overlap with a track from which an input's own box is at its place

Score = Callable[[Observation], float | None]


class Teller:
    """Makes the events of a run.

    Args:
        expected: Inputs that voted -> output -> the accuracy that was measured with just these.
        sharing: Tells what each input added; None where nobody asks.

    Attributes:
        count: How many were made.
    """

    def __init__(
        self, engine: Engine, expected: Callable[[tuple[str, ...]], Mapping[str, Measurement]], sharing: Sharing | None = None
    ) -> None:
        self._engine, self._expected, self.sharing = engine, expected, sharing
        self._run_id, self.count = uuid.uuid4().hex[:12], 0

    def events(self, decision: Decision) -> list[Event]:
        """What of a decision is an event."""
        changes = [change for change in decision.changes if change.is_event]
        said = self._ask(decision.voted) if changes or decision.incidents else {}
        return [
            *(self._of_change(decision, change, said) for change in changes),
            *(self._of_incident(decision, incident, said) for incident in decision.incidents),
            *(replace(self._happening(decision, "", news.input, news.share), gate=news) for news in decision.gates),
        ]

    def _ask(self, voted: tuple[str, ...]) -> Said:
        """What each input says alone; for shares what every subset of them does."""
        return self._engine.of_subsets(self.sharing.subsets(voted) if self.sharing else [(name,) for name in voted])

    def _of_change(self, decision: Decision, change: Change, said: Said) -> Event:
        marks = _of_label(decision.readings[change.output].marks, change.label)
        frame = decision.frames.get(marks.frame) if marks else next(iter(decision.frames.values()), None)
        paint = scene((), marks=[marks]) if marks else None
        alone, shares = self._who(decision, said, change.output, change.label, lambda one: (one.scores or {}).get(change.label))
        return replace(
            self._happening(decision, change.output, change.label, change.score),
            alone=alone,
            shares=shares,
            jpeg=(lambda: frame.jpeg(PICTURE_WIDTH, paint=paint)) if frame is not None else None,
            marks=marks,
            is_like=self._engine.decider.is_like(change.output),
        )

    def _of_incident(self, decision: Decision, incident: Incident, said: Said) -> Event:
        track = incident.track
        frame = decision.frames.get(self._engine.scenes.frames[track.output])
        alone, shares = self._who(decision, said, track.output, track.label, lambda one: score_at(track, one.boxes))
        return replace(
            self._happening(decision, track.output, track.label, track.score),
            alone=alone,
            shares=shares,
            jpeg=(lambda: cropped(frame, track, PICTURE_WIDTH)) if frame is not None else None,
            incident=incident,
        )

    def _who(self, decision: Decision, said: Said, output: str, label: str, score: Score) -> tuple[dict[str, float], dict[str, float]]:
        """``alone`` and ``shares`` of an event."""
        scores = {subset: score(answer[output]) for subset, answer in said.items() if output in answer}
        known = {subset: value for subset, value in scores.items() if value is not None}
        alone = {subset[0]: value for subset, value in known.items() if len(subset) == 1}
        return alone, self.sharing.of(known, decision.voted, output, label) if self.sharing else {}

    def _happening(self, decision: Decision, output: str, label: str, score: float) -> Event:
        self.count += 1
        expected = self._expected(decision.known).get(output)
        return Event(
            id=f"{self._run_id}-{self.count}-{label}",
            output=output,
            label=label,
            score=score,
            wall_s=decision.wall_s,
            voted=decision.voted,
            stood_in=decision.stood_in,
            skipped=decision.skipped,
            latency_ms=decision.latency_ms,
            expected=expected.value if expected else None,
        )


def _of_label(marks: Marks | None, label: str) -> Marks | None:
    """Marks without the points of things of other labels."""
    return marks and replace(marks, poses=tuple(pose for pose in marks.poses if pose.label == label))


def score_at(track: Track, boxes: Sequence[Box]) -> float:
    """The best score among boxes of a track's label at its place; 0 where there is none."""
    there = (box.score for box in boxes if box.label == track.label and overlap(box, track.box) >= THERE)
    return max(there, default=0.0)
