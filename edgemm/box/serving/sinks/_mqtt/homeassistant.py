"""What Home Assistant is told by MQTT discovery: one device, with its entities."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgemm.contracts import task as tasks
from edgemm.contracts.card import Output
from edgemm.contracts.decision import Reading
from edgemm.contracts.sink import About
from edgemm.contracts.task import Entity

ALL = "all"


def slug(text: str) -> str:
    """``text`` as it may stand in ids and topics: letters, digits, _ and -."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_") or "x"


def events(about: About) -> list[str]:
    """Labels that can be an event, of all outputs."""
    return [entity.key for entities in shown(about).values() for entity in entities if entity.kind == "on_off"]


def device_payload(about: About, base: str, *, pictures: bool) -> dict[str, Any]:
    """The payload of ``<prefix>/device/<id>/config`` (Home Assistant 2024.11 and later), which takes no key it does not know."""
    return {
        "dev": _device(about),
        "o": {"name": "edgemm", "sw": about.version},
        "qos": 1,
        "availability": [{"topic": f"{base}/availability"}],
        "cmps": components(about, base, pictures=pictures),
    }


def component_payloads(about: About, base: str, *, pictures: bool) -> dict[str, dict[str, Any]]:
    """For older ones: ``<platform>/<id>/<entity>`` -> the payload of ``<prefix>/<that>/config``."""
    payloads = {}
    for key, entity in components(about, base, pictures=pictures).items():
        common = {"availability": [{"topic": f"{base}/availability"}], "device": _device(about)}
        payloads[f"{entity['p']}/edgemm_{slug(about.name)}/{key}"] = {**{k: v for k, v in entity.items() if k != "p"}, **common}
    return payloads


def components(about: About, base: str, *, pictures: bool) -> dict[str, dict[str, Any]]:
    """Key -> entity."""
    entities: dict[str, dict[str, Any]] = {}
    for name, output in about.outputs.items():
        entities |= _of_output(about, base, name, output)
    if labels := events(about):
        entities["event"] = {"p": "event", "name": "Detection", "event_types": labels, "state_topic": f"{base}/event"}
    if pictures:
        entities["picture"] = {"p": "image", "name": "Last event", "image_topic": f"{base}/picture", "content_type": "image/jpeg"}
    entities |= _controls(about, base) | _diagnostics(base)
    return {key: {**entity, "unique_id": f"edgemm_{slug(about.name)}_{key}"} for key, entity in entities.items()}


def shown(about: About) -> dict[str, list[Entity]]:
    """Output -> its entities."""
    return {name: _told(about, name, output) for name, output in about.outputs.items()}


def states(entities: Iterable[Entity], base: str, name: str, reading: Reading) -> dict[str, str]:
    """Topic -> payload of an output's entities."""
    payloads = {}
    for entity in entities:
        topic = f"{base}/{slug(name)}/{slug(entity.key)}"
        if entity.kind == "on_off":
            payloads[topic] = "ON" if entity.key in reading.on else "OFF"
        elif entity.kind == "word" and reading.label is not None:
            payloads[topic] = reading.label
        elif entity.kind == "number" and reading.value is not None:
            payloads[topic] = f"{reading.value:.6g}"
    return payloads


def _device(about: About) -> dict[str, Any]:
    return {"ids": [f"edgemm_{slug(about.name)}"], "name": about.name, "mf": "edgemm", "mdl": about.model, "sw": about.version}


def _told(about: About, name: str, output: Output) -> list[Entity]:
    """What the output's task shows, without the classes that are never an event."""
    quiet = about.quiet.get(name, frozenset())
    return [entity for entity in tasks.of(output).entities() if entity.kind != "on_off" or entity.key not in quiet]


def _of_output(about: About, base: str, name: str, output: Output) -> dict[str, dict[str, Any]]:
    return {f"{slug(name)}_{slug(entity.key)}": _of_entity(base, name, entity) for entity in _told(about, name, output)}


def _of_entity(base: str, name: str, entity: Entity) -> dict[str, Any]:
    topic = f"{base}/{slug(name)}/{slug(entity.key)}"
    running: dict[str, Any] = {
        "availability": [{"topic": f"{base}/availability"}, {"topic": f"{base}/running"}],
        "availability_mode": "all",
    }
    if entity.kind == "on_off":
        attributes = {"json_attributes_topic": f"{topic}/attributes"}
        return {"p": "binary_sensor", "name": _title(entity.key), "state_topic": topic, **attributes, **running}
    sensor: dict[str, Any] = {"p": "sensor", "name": _title(name), "state_topic": topic, **running}
    if entity.choices:
        sensor |= {"device_class": "enum", "options": list(entity.choices)}
    return sensor | ({"unit_of_measurement": entity.unit} if entity.unit else {})


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _controls(about: About, base: str) -> dict[str, dict[str, Any]]:
    config = {"entity_category": "config"}
    return {
        "threshold": {
            "p": "number", "name": "Threshold", "command_topic": f"{base}/threshold/set", "state_topic": f"{base}/threshold",
            "min": 0, "max": 1, "step": 0.05, "mode": "slider", **config,
        },
        "modalities": {
            "p": "select", "name": "Modalities", "command_topic": f"{base}/modalities/set", "state_topic": f"{base}/modalities",
            "options": [ALL, *about.inputs], **config,
        },
        "enabled": {
            "p": "switch", "name": "Enabled", "command_topic": f"{base}/enabled/set", "state_topic": f"{base}/enabled", **config,
        },
    }  # fmt: skip


def _diagnostics(base: str) -> dict[str, dict[str, Any]]:
    def sensor(name: str, template: str, unit: str | None = None, platform: str = "sensor", **more: Any) -> dict[str, Any]:
        entity = {"p": platform, "name": name, "state_topic": f"{base}/status", "value_template": template, "entity_category": "diagnostic"}
        return entity | ({"unit_of_measurement": unit} if unit else {}) | more

    up = "{{ 'ON' if value_json.sources | selectattr('state', 'ne', 'up') | list | count == 0 else 'OFF' }}"
    drifted = "{{ 'ON' if value_json.drift.recalibrate else 'OFF' }}"
    return {
        "rate": sensor("Decisions a second", "{{ value_json.decide_hz }}", "Hz"),
        "camera_rate": sensor("Camera rate", "{{ value_json.sources | map(attribute='rate_hz') | max }}", "Hz"),
        "latency": sensor("Latency p95", "{{ value_json.latency_ms.p95 }}", "ms"),
        "voting": sensor("Voting", "{{ value_json.voted | join(', ') }}"),
        "source": sensor("Camera", up, platform="binary_sensor", device_class="connectivity"),
        "drift": sensor("Recalibrate", drifted, platform="binary_sensor", device_class="problem"),
    }


def controls_state(controls: Mapping[str, str], base: str) -> dict[str, str]:
    """Topic -> payload of what the controls stand at."""
    return {f"{base}/{name}": value for name, value in controls.items()}
