"""What Home Assistant is told by MQTT discovery: one device, with its entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from edgemm.box.serving.sinks._mqtt import zones
from edgemm.contracts import task as tasks
from edgemm.contracts.decision import GateNews, Incident, Reading
from edgemm.contracts.sink import About
from edgemm.contracts.slugs import distinct, slug, slugs
from edgemm.contracts.task import Entity

ALL = "all"
CONTROLS = ("enabled", "modalities", "threshold")
OF_A_LABEL = ("on_off", "count")
GATE = "gate"
"""``gate/<input>/attributes`` holds what its gate told last."""
GATE_EVENTS = get_args(get_type_hints(GateNews)["kind"])
SET = "set"
"""``<control>/set`` is where a control is moved."""


@dataclass(frozen=True)
class Shown:
    """One entity of an output, and where it stands.

    Attributes:
        topic: Below the device's own.
        id: What no other entity of the device is called.
        title: What people read: the label, with its output's name where several have that label.
    """

    entity: Entity
    topic: str
    id: str
    title: str


def events(about: About) -> list[str]:
    """What can be an event, of all outputs: labels that go on, and what tracks do."""
    labels = (one.entity.key for entities in shown(about).values() for one in entities if one.entity.kind == "on_off")
    done = get_args(get_type_hints(Incident)["kind"]) if about.zones else ()
    return list(dict.fromkeys([*labels, *done, *(GATE_EVENTS if about.gated else ())]))


def device_payload(about: About, base: str, *, pictures: bool, gone: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """The payload of ``<prefix>/device/<id>/config`` (Home Assistant 2024.11 and later), which takes no key it does not know.

    Args:
        gone: Key -> platform of entities that were there; named by nothing but that, they are removed.
    """
    removed = {key: {"p": platform} for key, platform in gone.items()}
    return {
        "dev": _device(about),
        "o": {"name": "edgemm", "sw": about.version},
        "qos": 1,
        "availability": [{"topic": f"{base}/availability"}],
        "cmps": removed | components(about, base, pictures=pictures),
    }


def component_place(about: About, key: str, platform: str) -> str:
    """Where an entity's own configuration stands, for older ones."""
    return f"{platform}/edgemm_{slug(about.name)}/{key}"


def component_payloads(about: About, base: str, *, pictures: bool) -> dict[str, dict[str, Any]]:
    """For older ones: ``<platform>/<id>/<entity>`` -> the payload of ``<prefix>/<that>/config``."""
    payloads = {}
    for key, entity in components(about, base, pictures=pictures).items():
        common = {"availability": [{"topic": f"{base}/availability"}], "device": _device(about)}
        payloads[component_place(about, key, entity["p"])] = {**{k: v for k, v in entity.items() if k != "p"}, **common}
    return payloads


def components(about: About, base: str, *, pictures: bool) -> dict[str, dict[str, Any]]:
    """Key -> entity."""
    all_shown = shown(about)
    entities = {one.id: _of_entity(base, one) for own in all_shown.values() for one in own}
    for zone in (zone for own in zones_shown(about, all_shown).values() for zone in own):
        entities |= {key: {**entity, **_running(base)} for key, entity in zones.components(zone, base, pictures=pictures).items()}
    if labels := events(about):
        entities["event"] = {"p": "event", "name": "Detection", "event_types": labels, "state_topic": f"{base}/event"}
    if pictures:
        entities["picture"] = {"p": "image", "name": "Last event", "image_topic": f"{base}/picture", "content_type": "image/jpeg"}
    entities |= _controls(about, base) | _diagnostics(about, base)
    return {key: {**entity, "unique_id": f"edgemm_{slug(about.name)}_{key}"} for key, entity in entities.items()}


def shown(about: About) -> dict[str, list[Shown]]:
    """Output -> its entities: those of its task, without the classes that are never an event."""
    entities = {name: list(about.named.get(name, tasks.of(output).entities())) for name, output in about.outputs.items()}
    outputs, topics = slugs(entities), dict[tuple[str, Entity], tuple[str, str]]()
    for name, own in entities.items():
        words = [slug(entity.key) for entity in own if entity.kind not in OF_A_LABEL]
        words += about.settable.get(name, ())
        labels = slugs(_labels(own), taken=[*words, *([SET] if outputs[name] in CONTROLS else [])])
        topics |= {(name, entity): (outputs[name], labels[entity.key] if entity.kind in OF_A_LABEL else slug(entity.key)) for entity in own}
    ids = distinct({"/".join(place): "_".join(place) for place in topics.values()}, taken=_fixed(about))
    labels_in = Counter(label for own in entities.values() for label in _labels(own))
    titles = Counter([*map(_title, labels_in), *(f"output {_title(name)}" for name in entities)])
    all_shown: dict[str, list[Shown]] = {name: [] for name in entities}
    for (name, entity), place in topics.items():
        is_label = entity.kind in OF_A_LABEL
        output = name if titles[f"output {_title(name)}"] > 1 else _title(name)
        label = entity.key if titles[_title(entity.key)] > 1 else _title(entity.key)
        title = output if not is_label else label if labels_in[entity.key] == 1 else f"{output}: {label}"
        if not (entity.kind == "on_off" and entity.key in about.quiet.get(name, frozenset())):
            all_shown[name].append(Shown(entity, "/".join(place), ids["/".join(place)], title))
    return all_shown


def settable(about: About) -> dict[str, str]:
    """``<output>/<what>`` as ``About.control`` takes it -> where it is set, below the device's own topic and without ``/set``."""
    outputs = slugs(about.outputs)
    return {f"{name}/{what}": f"{outputs[name]}/{what}" for name, own in about.settable.items() for what in own}


def zones_shown(about: About, entities: Mapping[str, list[Shown]]) -> dict[str, list[zones.ShownZone]]:
    """Output -> its zones, whose topics and ids are none of ``entities``."""
    return zones.shown(about, entities, taken=_fixed(about))


def topic_of(entities: Iterable[Shown], label: str) -> str:
    """Where a label stands, below the device's own topic."""
    return next((one.topic for one in entities if one.entity.kind in OF_A_LABEL and one.entity.key == label), slug(label))


def states(entities: Iterable[Shown], base: str, reading: Reading) -> dict[str, str]:
    """Topic -> payload of an output's entities."""
    payloads = {}
    for one in entities:
        topic, entity = f"{base}/{one.topic}", one.entity
        if entity.kind == "on_off":
            payloads[topic] = "ON" if entity.key in reading.on else "OFF"
        elif entity.kind == "count":
            payloads[topic] = str(sum(track.label == entity.key for track in reading.tracks or ()))
        elif entity.kind == "word" and reading.label is not None:
            payloads[topic] = reading.label
        elif entity.kind == "number" and reading.value is not None:
            payloads[topic] = f"{reading.value:.6g}"
    return payloads


def _device(about: About) -> dict[str, Any]:
    return {"ids": [f"edgemm_{slug(about.name)}"], "name": about.name, "mf": "edgemm", "mdl": about.model, "sw": about.version}


def _labels(entities: Iterable[Entity]) -> list[str]:
    return [entity.key for entity in entities if entity.kind in OF_A_LABEL]


def _fixed(about: About) -> list[str]:
    """Keys of entities that every device has."""
    return [*_controls(about, ""), *_diagnostics(about, ""), "event", "picture"]


def _running(base: str) -> dict[str, Any]:
    """Of entities that know nothing while no decision is taken."""
    return {"availability": [{"topic": f"{base}/availability"}, {"topic": f"{base}/running"}], "availability_mode": "all"}


def _of_entity(base: str, one: Shown) -> dict[str, Any]:
    topic, entity = f"{base}/{one.topic}", one.entity
    running = _running(base)
    attributes = {"json_attributes_topic": f"{topic}/attributes"}
    if entity.kind == "count":
        return {"p": "sensor", "name": one.title, "state_topic": topic, "state_class": "measurement", **attributes, **running}
    if entity.kind == "on_off":
        return {"p": "binary_sensor", "name": one.title, "state_topic": topic, **attributes, **running}
    sensor: dict[str, Any] = {"p": "sensor", "name": one.title, "state_topic": topic, **running}
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


def _diagnostics(about: About, base: str) -> dict[str, dict[str, Any]]:
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
        **{key: sensor(*words) for name in about.gated for key, words in _of_gate(name).items()},
    }


def _of_gate(name: str) -> dict[str, tuple[str, str] | tuple[str, str, str]]:
    """Key -> title, template and unit of what stands for one gate."""
    own = f"(value_json.gates | selectattr('input', 'eq', {name!r}) | first)"
    state = f"{{{{ {own}.state }}}}"
    share = f"{{{{ ({own}.skipped_share * 100) | round(1) }}}}"
    title = _title(name)
    return {f"gate_{slug(name)}": (f"Gate of {title}", state), f"skipped_{slug(name)}": (f"{title} skipped", share, "%")}


def controls_state(controls: Mapping[str, str], base: str) -> dict[str, str]:
    """Topic -> payload of what the controls stand at."""
    return {f"{base}/{name}": value for name, value in controls.items()}
