"""An MQTT broker, with Home Assistant's device discovery: states, events with their ids, controls, how the box does."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgemm.box.serving.broker import Broker, Connection, options_of
from edgemm.box.serving.outbox import Outbox
from edgemm.box.serving.sinks._mqtt import frigate, zones
from edgemm.box.serving.sinks._mqtt import homeassistant as ha
from edgemm.contracts.decision import Decision, Reading, Tracked
from edgemm.contracts.sink import About, Event, Sink, decision_dict
from edgemm.contracts.slugs import slug
from edgemm.errors import RunError

PLACES = ("mqtt://*", "mqtts://*")
SHARED = ("box/serving/broker.py", "Connection")
TOLD = (
    "state", "why", "decide_hz", "latency_ms", "decisions", "events", "late", "voted", "skipped", "gates", "expected", "drift", "uptime_s",
    "rss_mib",
)  # fmt: skip
BIRTH = "homeassistant/status"
LOG = logging.getLogger("edgemm.run")


class Mqtt(Sink):
    """Publishes below ``<prefix>/<name>``.

    States are a table of the newest values, sent when they change and all of them again after every connect: a state published before a
    reconnect can never follow a newer one. Events wait in an outbox until the broker has confirmed them, or their time is over.
    """

    def __init__(
        self,
        *,
        prefix: str = "edgemm",
        discovery: Literal["device", "component", "none"] = "device",
        discovery_prefix: str = "homeassistant",
        event_ttl_s: float = 600.0,
        pictures: bool = False,
        scores: bool = False,
        tracks: str | None = None,
        **connection: Any,
    ) -> None:
        """
        Args:
            discovery: Home Assistant's: ``device`` (2024.11 and later), ``component`` (older), ``none``.
            event_ttl_s: How long an event waits for the broker to come back.
            pictures: Publish the picture of every event; it leaves the box only if this is set.
            scores: Publish every decision with all its scores.
            tracks: Topic of the news of tracks, in Frigate's form; without it ``<prefix>/<name>/tracks``.
            connection: The fields of ``Connection``.

        Raises:
            RunError: A secret or certificate is not there, or a prefix is no topic.
        """
        where = Connection(**connection).address("sinks.mqtt")
        for key, topic in (("prefix", prefix), ("discovery_prefix", discovery_prefix), ("tracks", tracks or "tracks")):
            if not topic.strip("/") or set(topic) & set("+#\0"):
                why = "'+' and '#' stand for other topics, and nothing can be published to them."
                raise RunError(
                    f"sinks.mqtt.{key}: '{topic}' is no topic.", why=why, fix="write words with slashes between, such as home/edge."
                )
        if where.insecure:
            LOG.warning("sinks.mqtt: insecure is set, anybody may pose as the broker %s", where)
        self._where, self._prefix, self._discovery, self._discovery_prefix = where, prefix, discovery, discovery_prefix
        self._pictures, self._scores, self._tracks = pictures, scores, tracks
        self._outbox, self._tidings = Outbox(event_ttl_s), Outbox(event_ttl_s)  # many news push no event out
        self._states: dict[str, str | bytes] = {}
        self._lock = threading.RLock()
        self._broker: Broker | None = None
        self._base = ""
        self._about: About | None = None
        self._gone: dict[str, str] = {}
        self._settable: dict[str, str] = {}
        self._entities: Mapping[str, Sequence[ha.Shown]] = {}
        self._zones: Mapping[str, Sequence[zones.ShownZone]] = {}
        self._news = self._number = 0
        self._sent_on: dict[str, int] = {}  # letter -> the connection it was handed over on
        self._ending = False

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return options_of(place)

    def start(self, about: About) -> None:
        self._base = f"{self._prefix}/{slug(about.name)}"
        self._take(about)
        with self._lock:
            self._states |= {f"{self._base}/running": "offline"}
            self._states |= ha.controls_state({"enabled": "ON", "modalities": ha.ALL, "threshold": f"{about.threshold:g}"}, self._base)
            for topic in self._class_topics(about):
                self._states.setdefault(topic, "OFF")
            for name in about.zones:  # nobody is there before anybody is seen
                for topic, value in self._told(name, Reading(tracks=())).items():
                    self._states.setdefault(topic, value)
        self._broker = Broker(
            self._where,
            name=slug(about.name),
            will=(f"{self._base}/availability", "offline"),
            on_up=self._up,
            on_message=self._message,
            on_sent=self._confirmed,
        )
        self._broker.start()

    def changed(self, about: About) -> None:
        assert self._about is not None
        with self._lock:
            before, old = self._class_topics(self._about), self._components(self._about)
            self._take(about)
            now, new = self._class_topics(about), self._components(about)
            self._gone = {key: platform for key, platform in (self._gone | old).items() if key not in new}
            lost = [topic for topic in before if topic not in now]
            for topic in lost:
                self._states.pop(topic, None)
                self._states.pop(f"{topic}/attributes", None)
                for stale in (topic, f"{topic}/attributes"):
                    if self._broker:
                        self._broker.publish(stale, "", retain=True)
            for topic in now:
                self._states.setdefault(topic, "OFF")
        if self._broker and self._broker.connected:
            self._introduce()

    def _take(self, about: About) -> None:
        self._about, self._entities = about, ha.shown(about)
        self._zones = ha.zones_shown(about, self._entities)
        self._settable = {topic: what for what, topic in ha.settable(about).items()}

    def _components(self, about: About) -> dict[str, str]:
        """Key -> platform."""
        return {key: str(entity["p"]) for key, entity in ha.components(about, self._base, pictures=self._pictures).items()}

    def decision(self, decision: Decision) -> None:
        if decision.number != self._number:  # one that is told again says who has gone, since nothing comes any more
            self._set(f"{self._base}/running", "online")
        self._number = decision.number
        for name, reading in decision.readings.items():
            for topic, value in self._told(name, reading).items():
                if reading.value is None or reading.moved or topic not in self._states:
                    self._set(topic, value)
        if self._scores and self._broker:
            self._broker.publish(f"{self._base}/decision", json.dumps(decision_dict(decision)))

    def event(self, event: Event) -> None:
        plain = event.to_dict()
        self._set(f"{self._base}/{self._place_of(event)}/attributes", json.dumps(plain))
        self._outbox.put(event.id, f"{self._base}/event", json.dumps({"event_type": event.kind, **plain}).encode())
        self._flush()
        if self._pictures and event.jpeg and self._broker:
            picture, zone = event.jpeg(), self._zone_of(event)
            for topic in ("picture", *([zone.picture_topic] if zone else [])):
                self._broker.publish(f"{self._base}/{topic}", picture)

    def tracked(self, news: Tracked, voted: tuple[str, ...]) -> None:
        assert self._about is not None
        self._news += 1
        content = frigate.message(news, self._about.name, voted, has_snapshot=self._pictures)
        topic = self._tracks or f"{self._base}/tracks"
        self._tidings.put(f"{news.after.id}-{self._news}", topic, json.dumps(content).encode())
        self._flush()

    def status(self, status: Mapping[str, Any]) -> None:
        self._set(f"{self._base}/running", "online" if status["state"] == "running" else "offline")
        brief = {key: status[key] for key in TOLD if key in status}
        brief["sources"] = [{k: s[k] for k in ("name", "state", "error", "reconnects", "rate_hz", "drift_ppm")} for s in status["sources"]]
        self._set(f"{self._base}/status", json.dumps(brief))
        allowed, threshold = status["modalities"], status["threshold"]
        controls = {"modalities": allowed[0] if len(allowed) == 1 and self._about and len(self._about.inputs) > 1 else ha.ALL}
        controls |= {"enabled": "OFF" if status["state"] == "off" else "ON"}
        controls |= {} if threshold is None else {"threshold": f"{threshold:g}"}
        for topic, value in ha.controls_state(controls, self._base).items():
            self._set(topic, value)
        self._flush()

    def stop(self) -> None:
        self._ending = True
        if self._broker:
            self._broker.stop(last=(f"{self._base}/availability", "offline"))

    def describe(self) -> dict[str, Any]:
        """For the status: whether it is connected, and what waits."""
        up = self._broker is not None and self._broker.connected
        waiting = {"waiting": len(self._outbox), "expired": self._outbox.expired, "overflowed": self._outbox.overflowed}
        connects = self._broker.connects if self._broker else 0
        return {"connected": up, "connects": connects, "why": self._broker.error if self._broker and not up else "", **waiting}

    def _told(self, output: str, reading: Reading) -> dict[str, str]:
        """Topic -> payload of all that stands for an output."""
        return ha.states(self._entities[output], self._base, reading) | zones.states(self._zones.get(output, ()), self._base, reading)

    def _place_of(self, event: Event) -> str:
        """The topic, below the device's own, that an event is about: a zone, else a label."""
        if event.gate:
            return f"{ha.GATE}/{slug(event.gate.input)}"
        zone = self._zone_of(event)
        return zone.topic if zone else ha.topic_of(self._entities[event.output], event.label)

    def _zone_of(self, event: Event) -> zones.ShownZone | None:
        """The zone that an event happened at; none of a line."""
        incident = event.incident
        if incident is None or incident.side is not None:
            return None
        return next((one for one in self._zones.get(event.output, ()) if one.zone == incident.place), None)

    def _class_topics(self, about: About) -> list[str]:
        status = f"{self._base}/status"
        sensors = [entity for entity in ha.components(about, self._base, pictures=False).values() if entity["p"] == "binary_sensor"]
        return [entity["state_topic"] for entity in sensors if entity["state_topic"] != status]

    def _set(self, topic: str, value: str | bytes) -> None:
        """Note a state, and tell it where it is new."""
        with self._lock:
            if self._states.get(topic) == value:
                return
            self._states[topic] = value
            if self._broker:
                self._broker.publish(topic, value, retain=True)

    def _flush(self) -> None:
        """Hand over what waits, each letter once a connection. The loop's thread and paho's both come here."""
        if self._broker is None or not self._broker.connected:
            return
        with self._lock:
            for letter in (*self._outbox.waiting(), *self._tidings.waiting()):
                connection = self._broker.connects
                if self._sent_on.get(letter.id) != connection and self._broker.publish(letter.place, letter.content, key=letter.id):
                    self._sent_on[letter.id] = connection

    def _confirmed(self, id: str) -> None:
        with self._lock:
            self._outbox.done(id)
            self._tidings.done(id)
            self._sent_on.pop(id, None)

    def _up(self) -> None:
        """After every connect, and when Home Assistant comes up: who we are, that we are there, every state; then what waited."""
        assert self._broker is not None
        for topic in {*self._births(), f"{self._base}/availability"}:
            self._broker.subscribe(topic)
        for name in (*ha.CONTROLS, *self._settable):
            self._broker.subscribe(f"{self._base}/{name}/{ha.SET}")
        self._introduce()
        self._flush()

    def _births(self) -> tuple[str, str]:
        """Where Home Assistant says that it is there; its own topic stays even where its discovery has another prefix."""
        return BIRTH, f"{self._discovery_prefix}/status"

    def _introduce(self) -> None:
        assert self._broker is not None
        assert self._about is not None
        if self._discovery == "device":
            payload = ha.device_payload(self._about, self._base, pictures=self._pictures, gone=self._gone)
            self._broker.publish(
                f"{self._discovery_prefix}/device/edgemm_{slug(self._about.name)}/config", json.dumps(payload), retain=True
            )
        elif self._discovery == "component":
            for entity_path, entity in ha.component_payloads(self._about, self._base, pictures=self._pictures).items():
                self._broker.publish(f"{self._discovery_prefix}/{entity_path}/config", json.dumps(entity), retain=True)
            for key, platform in self._gone.items():
                place = ha.component_place(self._about, key, platform)
                self._broker.publish(f"{self._discovery_prefix}/{place}/config", "", retain=True)
        with self._lock:
            for topic, value in self._states.items():
                self._broker.publish(topic, value, retain=True)
        self._broker.publish(f"{self._base}/availability", "online", retain=True)

    def _message(self, topic: str, payload: bytes) -> None:
        if topic in self._births():
            if payload == b"online":
                self._introduce()
            return
        if topic == f"{self._base}/availability":
            if payload != b"online" and not self._ending and self._broker:  # the will of a connection that died long ago
                self._broker.publish(topic, "online", retain=True)
            return
        what = topic.removeprefix(f"{self._base}/").removesuffix(f"/{ha.SET}")
        value = payload.decode(errors="replace")
        if what in self._settable and self._about:
            self._about.control(self._settable[what], value)
        if what in ha.CONTROLS and self._about and self._about.control(what, value):
            self._set(f"{self._base}/{what}", value)
