"""News of tracks in the form of Frigate's topic ``events``, so that what reads those reads these."""

from __future__ import annotations

from typing import Any

from edgemm.contracts.decision import Track, Tracked
from edgemm.contracts.sink import track_dict

PACE_HZ = 5  # Frigate counts pictures without motion, of which it takes five a second


def message(news: Tracked, camera: str, voted: tuple[str, ...], *, has_snapshot: bool) -> dict[str, Any]:
    """One message: ``type`` new, update or end, how it was told ``before``, and how it is now (``after``).

    What Frigate does not have stands beside, under ``edgemm``: the output, the inputs that voted, and the track as in other messages.
    """
    ended_s = news.after.seen_wall_s if news.kind == "end" else None
    after = _object(news.after, camera, has_snapshot=has_snapshot) | {"end_time": ended_s}
    before = _object(news.before or news.after, camera, has_snapshot=has_snapshot) | {"false_positive": news.before is None}
    own = {"output": news.after.output, "voted": list(voted), "track": track_dict(news.after)}
    return {"type": news.kind, "before": before, "after": after, "edgemm": own}


def _object(track: Track, camera: str, *, has_snapshot: bool) -> dict[str, Any]:
    box = track.box
    width, height = track.size
    return {
        "id": track.id,
        "camera": camera,
        "frame_time": track.seen_wall_s,
        "label": track.label,
        "sub_label": None,
        "top_score": round(track.best, 4),
        "false_positive": False,
        "start_time": track.began_wall_s,
        "end_time": None,
        "score": round(track.score, 4),
        "box": [round(edge) for edge in (box.x0, box.y0, box.x1, box.y1)],
        "area": round(box.area),
        "ratio": round((box.x1 - box.x0) / max(box.y1 - box.y0, 1e-9), 2),
        "region": [0, 0, width, height],
        "active": not track.is_standing,
        "stationary": track.is_standing,
        "motionless_count": int(track.still_s * PACE_HZ),
        "position_changes": track.moves,
        "current_zones": list(track.zones),
        "entered_zones": list(track.entered),
        "attributes": {},
        "current_attributes": [],
        "has_clip": False,
        "has_snapshot": has_snapshot,
    }
