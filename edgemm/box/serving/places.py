"""What ``run.yaml`` says of tracks, zones and lines: checked against the model, every mistake noted; and those who follow it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgemm.box.serving.sections import mapping, section
from edgemm.box.serving.settings import Settings
from edgemm.box.serving.tracking.areas import area, crossing_edges
from edgemm.box.serving.tracking.following import Follower
from edgemm.box.serving.tracking.settings import LineSettings, TrackSettings, ZoneSettings
from edgemm.contracts.card import Card
from edgemm.contracts.task import tasks
from edgemm.errors import Collector, RunError, nearest

LEAST_AREA = 1e-6  # of the picture: one pixel of a thousand by a thousand
P = TypeVar("P", ZoneSettings, LineSettings)
PERIODS = 2  # a track that may end between two pictures is none


def frames_of(card: Card) -> dict[str, str]:
    """Every output that answers with boxes -> the input in whose picture they are."""
    return {name: str(card.outputs[name].frame) for name, task in tasks(card).items() if task.has_boxes}


def followers(card: Card, settings: Settings) -> dict[str, Follower]:
    """Every output with boxes -> what follows them."""
    frames = frames_of(card)

    def own(places: Mapping[str, P], output: str) -> dict[str, P]:
        return {name: place for name, place in places.items() if place.output == output or (len(frames) == 1 and place.output is None)}

    return {
        name: Follower(
            name,
            frame,
            settings.tracks.get(name, TrackSettings()),
            lost_s=settings.lost_s(name, frame),
            zones=own(settings.zones, name),
            lines=own(settings.lines, name),
        )
        for name, frame in frames.items()
    }


def tracks_of(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, TrackSettings]:
    """``tracks`` by output."""
    known, tracks = frames_of(card), {}
    for name, value in mapping(plain, f"{where}: tracks", mistakes).items():
        here = f"{where}: tracks.{name}"
        if name not in known:
            mistakes.add(_no_boxes(here, str(name), card, known))
            continue
        tracks[name] = settings = section(TrackSettings, value, here, mistakes)
        _check_labels(settings.quiet, card, name, f"{here}.quiet", mistakes)
        _check_labels(settings.thresholds, card, name, f"{here}.thresholds", mistakes)
        _check_scores(settings, here, mistakes)
    return tracks


def zones_of(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, ZoneSettings]:
    """``zones`` by name; a list of corners stands for a zone with the other settings' defaults."""
    return _places(ZoneSettings, "zones", plain, card, where, mistakes)


def lines_of(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, LineSettings]:
    """``lines`` by name, likewise."""
    return _places(LineSettings, "lines", plain, card, where, mistakes)


def check_pace(settings: Settings, card: Card, where: str, mistakes: Collector) -> None:
    """Tracks must last from one picture to the next."""
    for output, frame in frames_of(card).items():
        lost_s, rate_hz = settings.lost_s(output, frame), min(settings.decide_hz, settings.rate_hz(frame))
        if lost_s > 0 and lost_s * rate_hz < PERIODS:
            mistakes.add(
                RunError(
                    f"{where}: tracks.{output}.lost_s: {lost_s:g} s is too short.",
                    why=f"pictures come every {1 / rate_hz:.2g} s, so that one which shows nothing would end every track.",
                    fix=f"write at least {PERIODS / rate_hz:.2g}, or raise decide_hz.",
                )
            )


def _places(kind: type, key: str, plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, Any]:
    places = {}
    for name, value in mapping(plain, f"{where}: {key}", mistakes).items():
        here = f"{where}: {key}.{name}"
        before = len(mistakes.errors)
        settings = section(kind, {"points": value} if isinstance(value, list) else value, here, mistakes)
        if settings is None:
            continue
        _check_points(settings.points, here, mistakes, is_line=kind is LineSettings)
        if settings.inertia < 1:
            mistakes.add(RunError(f"{here}.inertia: {settings.inertia} pictures.", fix="write at least 1."))
        if output := _output_of(settings, card, here, mistakes):
            _check_labels(settings.labels or (), card, output, f"{here}.labels", mistakes)
        if len(mistakes.errors) == before:
            places[str(name)] = settings
    return places


def _check_points(points: Sequence[Sequence[float]], where: str, mistakes: Collector, *, is_line: bool) -> None:
    wanted = "a line has two points" if is_line else "a zone has at least three corners"
    other = "zones" if is_line else "lines"
    if (len(points) != 2) if is_line else (len(points) < 3):
        fix = f"write x and y of each, or it belongs under {other}." if is_line or len(points) == 2 else "write x and y of each."
        mistakes.add(RunError(f"{where}: {len(points)} point{'s' * (len(points) != 1)}; {wanted}.", fix=fix))
        return
    if odd := next((point for point in points if len(point) != 2), None):
        mistakes.add(RunError(f"{where}: {list(odd)} is no point.", why="a point is x and y.", fix="write it as [0.25, 0.8]."))
        return
    outside = [list(point) for point in points if not all(0 <= value <= 1 for value in point)]
    if outside:
        pixels = all(math.isfinite(value) and value >= 0 for point in outside for value in point)
        fix = "divide x by the picture's width and y by its height." if pixels else "write numbers from 0 to 1."
        why = "points are shares of the picture's width and height, from its upper left."
        mistakes.add(RunError(f"{where}: {outside[0]} is outside the picture.", why=why, fix=fix))
    elif is_line and points[0] == points[1]:
        mistakes.add(RunError(f"{where}: both points are {list(points[0])}.", fix="write where the line begins and where it ends."))
    elif not is_line and (edges := crossing_edges(points)):
        mistakes.add(
            RunError(
                f"{where}: its edges {edges[0]} and {edges[1]} cross.",
                why="edge 1 goes from the first corner to the second.",
                fix="write the corners in order, once around.",
            )
        )
    elif not is_line and area(points) < LEAST_AREA:
        mistakes.add(RunError(f"{where} has no area.", why="its corners lie on one line.", fix="write the corners around it."))


def _output_of(settings: Any, card: Card, where: str, mistakes: Collector) -> str | None:
    """The output whose boxes a zone or line is for."""
    known = frames_of(card)
    if settings.output is not None and settings.output in known:
        return str(settings.output)
    if settings.output is not None or not known:
        mistakes.add(_no_boxes(where, settings.output or "", card, known))
    elif len(known) == 1:
        return next(iter(known))
    else:
        mistakes.add(RunError(f"{where}: 'output' is missing.", why=f"{', '.join(known)} have boxes.", fix="say whose are meant."))
    return None


def _no_boxes(where: str, name: str, card: Card, known: Mapping[str, str]) -> RunError:
    if not known:
        return RunError(f"{where}: this model finds no boxes.", why="nothing can be followed.", fix="remove it.")
    if name in card.outputs:
        return RunError(f"{where}: '{name}' has no boxes that could be followed.", fix=nearest(name, known))
    return RunError(f"{where}: '{name}' is no output of this model.", fix=nearest(name, known))


def _check_labels(labels: Sequence[str] | Mapping[str, Any], card: Card, output: str, where: str, mistakes: Collector) -> None:
    known = card.outputs[output].labels or ()
    for label in labels:
        if label not in known:
            mistakes.add(RunError(f"{where}: '{label}' is no label of '{output}'.", fix=nearest(str(label), known)))


def _check_scores(settings: TrackSettings, where: str, mistakes: Collector) -> None:
    chosen = {f"{where}.threshold": settings.threshold} | {f"{where}.thresholds.{k}": v for k, v in settings.thresholds.items()}
    for place, score in (chosen | {f"{where}.release": settings.release}).items():
        if score is not None and not 0 <= score <= 1:
            mistakes.add(RunError(f"{place}: {score} is outside 0 to 1.", fix="write a score, such as 0.5."))
        elif score is not None and score < settings.release <= 1:
            mistakes.add(
                RunError(
                    f"{where}.release: {settings.release} is above {place.rpartition('.')[2]} {score}.",
                    why="boxes that begin a track would not keep it.",
                    fix="write a smaller one, or leave it out.",
                )
            )
    if settings.hits < 1:
        mistakes.add(RunError(f"{where}.hits: {settings.hits} boxes.", fix="write at least 1."))
