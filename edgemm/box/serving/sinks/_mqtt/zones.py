"""Zones by MQTT: how many of each label are in one, and whether anybody is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgemm.contracts.decision import Reading
from edgemm.contracts.sink import About
from edgemm.contracts.slugs import distinct, slugs

ALL = "all"
"""How many there are of all labels, beside those of each."""
PICTURE = "picture"


class Placed(Protocol):
    """An entity that has a topic and an id already."""

    @property
    def topic(self) -> str: ...

    @property
    def id(self) -> str: ...


@dataclass(frozen=True)
class ShownZone:
    """A zone of an output, and where it stands.

    Attributes:
        topic: Below the device's own: whether anybody is in it.
        id: Begins the ids of its entities.
        labels: Label -> topic of how many there are.
    """

    zone: str
    topic: str
    id: str
    labels: Mapping[str, str]

    @property
    def all_topic(self) -> str:
        return f"{self.topic}/{ALL}"

    @property
    def picture_topic(self) -> str:
        return f"{self.topic}/{PICTURE}"


def shown(about: About, others: Mapping[str, Sequence[Placed]], *, taken: Iterable[str]) -> dict[str, list[ShownZone]]:
    """Output -> its zones.

    Args:
        others: Output -> its other entities, whose topics and ids are theirs.
        taken: Further ids that are.
    """
    outputs = slugs(about.outputs)
    topics: dict[tuple[str, str], str] = {}
    for name, zones in about.zones.items():
        words = [one.topic.rpartition("/")[2] for one in others.get(name, ())]
        topics |= {(name, zone): f"{outputs[name]}/{own}" for zone, own in slugs(zones, taken=words).items()}
    kept = [*taken, *(one.id for own in others.values() for one in own)]
    wanted = {topic: topic.replace("/", "_") for topic in topics.values()}
    ids = distinct(wanted, taken=[*kept, *(id.removesuffix(f"_{word}") for id in kept for word in (ALL, PICTURE))])
    all_zones: dict[str, list[ShownZone]] = {name: [] for name in about.zones}
    for (name, zone), topic in topics.items():
        labels = slugs(about.zones[name][zone], taken=[ALL, PICTURE, "attributes"])
        all_zones[name].append(ShownZone(zone, topic, ids[topic], {label: f"{topic}/{own}" for label, own in labels.items()}))
    return all_zones


def components(one: ShownZone, base: str, *, pictures: bool) -> dict[str, dict[str, Any]]:
    """Key -> entity: whether anybody is in the zone, how many, and the picture of what happened there last."""
    title, topic = one.zone.replace("_", " ").capitalize(), f"{base}/{one.topic}"
    attributes = {"json_attributes_topic": f"{topic}/attributes"}
    entities: dict[str, dict[str, Any]] = {
        one.id: {"p": "binary_sensor", "name": title, "state_topic": topic, "device_class": "occupancy", **attributes},
        f"{one.id}_{ALL}": {
            "p": "sensor", "name": f"{title} count", "state_topic": f"{base}/{one.all_topic}", "state_class": "measurement",
        },
    }  # fmt: skip
    if pictures:
        picture = {"p": "image", "name": f"{title} last event", "image_topic": f"{base}/{one.picture_topic}", "content_type": "image/jpeg"}
        entities[f"{one.id}_{PICTURE}"] = picture
    return entities


def states(zones: Iterable[ShownZone], base: str, reading: Reading) -> dict[str, str]:
    """Topic -> payload of an output's zones."""
    payloads: dict[str, str] = {}
    for one in zones:
        labels = [track.label for track in reading.tracks or () if one.zone in track.zones]
        payloads |= {f"{base}/{topic}": str(labels.count(label)) for label, topic in one.labels.items()}
        payloads |= {f"{base}/{one.all_topic}": str(len(labels)), f"{base}/{one.topic}": "ON" if labels else "OFF"}
    return payloads
