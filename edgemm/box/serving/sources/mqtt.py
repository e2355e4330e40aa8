"""An MQTT topic: texts, or measurements as JSON."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.serving.broker import Broker, Connection, options_of
from edgemm.contracts.modality import Modality
from edgemm.contracts.source import Item, Source, checked_inputs
from edgemm.contracts.stream import Texts
from edgemm.errors import DataError, RunError
from edgemm.store import json_text

PLACES = ("mqtt://*", "mqtts://*")
SHARED = ("box/serving/broker.py", "Connection")
WAITING = 64  # messages between broker and loop; of more the oldest are left out
POLL_S = 0.2
AWAY_S = 5.0  # without a broker for so long the source counts as down; the connection goes on being tried
LONGEST = 1 << 16  # bytes of a message


class Mqtt(Source):
    """One topic for one input."""

    steady = False

    def __init__(self, *, inputs: list[str] | str, topic: str, key: str | None = None, **connection: Any) -> None:
        """
        Args:
            inputs: The text or sensor input it feeds.
            topic: May hold + and #.
            key: Where the payload is a JSON object: the entry that holds the text or the numbers.
            connection: The fields of ``Connection``.

        Raises:
            RunError: More than one input, or a secret is not there.
        """
        self.inputs, self.live, self.notes = checked_inputs(inputs), True, []
        if len(self.inputs) != 1 or not topic:
            raise RunError("sources.mqtt feeds one input from one topic.", fix="write one for each: {inputs: text, topic: room/said}.")
        self._where = Connection(**connection).address("sources.mqtt")
        self._topic, self._key = topic, key
        self._stop = threading.Event()

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"topic": place.partition("://")[2].partition("/")[2], **options_of(place)}

    def items(self, wants: Mapping[str, Modality]) -> Iterator[Item]:
        self._stop.clear()
        (name, modality) = next(iter(wants.items()))
        arrived: queue.Queue[tuple[float, bytes]] = queue.Queue(WAITING)
        broker = Broker(self._where, on_up=lambda: broker.subscribe(self._topic), on_message=lambda _, payload: _put(arrived, payload))
        broker.start()
        try:
            away_since = time.monotonic()
            while not self._stop.is_set():
                self.connected = broker.connected
                away_since = time.monotonic() if broker.connected else away_since
                never = broker.error and not broker.connects
                if never or time.monotonic() - away_since > AWAY_S:
                    why = broker.error.removeprefix(f"{self._where}").lstrip(": ").rstrip(".") or "nobody answers"
                    raise RunError(f"'{self.describe()}' has no broker.", why=f"{why}.", fix="is it running, and is the port right?")
                try:
                    at_s, payload = arrived.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                value = self._value(payload, modality)
                if value is not None:
                    yield Item(name, value, at_s)
        finally:
            self.connected = False
            broker.stop()

    def close(self) -> None:
        self._stop.set()

    def describe(self) -> str:
        return f"{self._where}/{self._topic}"

    def _value(self, payload: bytes, modality: Modality) -> str | np.ndarray | None:
        """What one message says; None, and a note, where it says nothing that the model could take."""
        try:
            if len(payload) > LONGEST:
                raise ValueError(f"{len(payload)} bytes are too many")
            value: Any = payload.decode()
            if self._key is not None:
                value = json_text.loads(value)[self._key]
            if isinstance(modality.stream(), Texts):
                if not isinstance(value, str):
                    raise ValueError("it is no text")
                modality.decode(value, Path())
                return value
            return np.atleast_1d(np.asarray(json_text.loads(value) if isinstance(value, str) else value, np.float32))
        except (ValueError, KeyError, TypeError, DataError) as err:
            self.notes[:] = [f"a message on {self._topic} was left out: {err}"]
            return None


def _put(arrived: queue.Queue[tuple[float, bytes]], payload: bytes) -> None:
    while True:
        try:
            arrived.put_nowait((time.monotonic(), payload))
            return
        except queue.Full:
            try:
                arrived.get_nowait()
            except queue.Empty:
                continue
