"""A connection to an MQTT broker that comes back by itself. Nothing is ever handed to paho while it is not connected.

paho keeps what was published while disconnected and sends it after the reconnect, after what ``on_connect`` published: a stale state
would win over a fresh one. So every connection is a new client without a past; what is to survive is kept by the caller.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgemm.errors import RunError
from edgemm.runtime.secrets import redact, secret

FIRST_WAIT_S, MOST_WAIT_S = 0.5, 15.0
KEEPALIVE_S = 15
CONNACK_S = 10.0
UNSUPPORTED = 132  # reason code of a broker that does not speak version 5


@dataclass(frozen=True)
class Address:
    """Where the broker is, and who we are there.

    Attributes:
        tls: Encrypted, with the broker's certificate checked against ``ca_file`` or the system's authorities.
        insecure: Encrypted, but anybody may pose as the broker.
    """

    host: str
    port: int | None = None
    tls: bool = False
    ca_file: str | None = None
    insecure: bool = False
    user: str | None = None
    password: str | None = None

    @property
    def own_port(self) -> int:
        return self.port or (8883 if self.tls else 1883)

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.own_port}"


def address(
    what: str,
    *,
    host: str,
    port: int | None,
    tls: bool,
    ca_file: str | None,
    insecure: bool,
    user_env: str | None,
    password_env: str | None,
    password_file: str | None,
) -> Address:
    """An address with its secrets read.

    Raises:
        RunError: A secret is not there, or ``ca_file`` is none; ``what`` names the place.
    """
    if "/" in host or "@" in host:
        raise RunError(f"{what}: host '{redact(host)}' is no name of a machine.", fix="write its name or address alone, port beside it.")
    if ca_file is not None:
        try:
            ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError) as err:
            raise RunError(f"{what}: ca_file '{ca_file}' cannot be used.", why=f"{err}.", fix="give a PEM certificate.") from err
    user, password = secret(user_env, None, f"{what}: user", hide=False), secret(password_env, password_file, f"{what}: password")
    return Address(host, port, tls or ca_file is not None or insecure, ca_file, insecure, user, password)


class Broker:
    """Keeps one connection alive in a thread of its own.

    Args:
        will: Topic and payload that the broker publishes, retained, when this process vanishes.
        on_up: Called in paho's thread after every connect; may publish and subscribe.
        on_message: Topic and payload of what arrives.
        on_sent: The ``key`` of a confirmed publish.

    Attributes:
        error: Why it is not connected, in words without secrets.
        connects: How often it was connected.
    """

    def __init__(
        self,
        where: Address,
        *,
        client_id: str = "",
        will: tuple[str, str] | None = None,
        on_up: Callable[[], None] = lambda: None,
        on_message: Callable[[str, bytes], None] = lambda topic, payload: None,
        on_sent: Callable[[str], None] = lambda key: None,
    ) -> None:
        self.where, self._id, self._will = where, client_id, will
        self._on_up, self._on_message, self._on_sent = on_up, on_message, on_sent
        self.error, self.connects = "not connected yet", 0
        self._version = mqtt.MQTTv5
        self._client: mqtt.Client | None = None
        self._keys: dict[int, str] = {}  # of what the broker has to confirm
        self._early: set[int] = set()  # confirmed before publish() came back
        self._lock = threading.RLock()
        self._stop, self._down = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    @property
    def connected(self) -> bool:
        return self._client is not None

    def start(self) -> None:
        self._thread.start()

    def publish(self, topic: str, payload: bytes | str, *, retain: bool = False, key: str | None = None) -> bool:
        """Hand one message over; False while there is no connection, and then it is gone.

        Args:
            key: What ``on_sent`` gets once the broker has confirmed it; without one nothing is confirmed (quality of service 0).
        """
        with self._lock:
            if self._client is None:
                return False
            info = self._client.publish(topic, payload, qos=1 if key is not None else 0, retain=retain)
            if info.rc != mqtt.MQTT_ERR_SUCCESS:
                return False
        if key is not None:
            self._keys[info.mid] = key
            if info.mid in self._early:
                self._sent(info.mid)
        return True

    def subscribe(self, topic: str) -> None:
        with self._lock:
            if self._client is not None:
                self._client.subscribe(topic, 1)

    def stop(self, *, last: tuple[str, str] | None = None) -> None:
        """Say ``last`` (topic and payload, retained), and end the connection in good order."""
        with self._lock:
            if last and self._client is not None:
                self._client.publish(last[0], last[1], qos=1, retain=True).wait_for_publish(1.0)
        self._stop.set()
        self._down.set()
        self._thread.join(3.0)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            began = time.monotonic()
            self._one_connection()
            wait_s = FIRST_WAIT_S if time.monotonic() - began > MOST_WAIT_S else min(MOST_WAIT_S, wait_s * 2)
            self._stop.wait(wait_s * random.uniform(0.5, 1.0))

    def _one_connection(self) -> None:
        """Connect, stay until the connection is lost or the end, and forget the client."""
        self._down.clear()
        greeted = threading.Event()
        client = self._made(greeted)
        try:
            client.connect(self.where.host, self.where.own_port, KEEPALIVE_S)
        except (OSError, ValueError) as err:  # ssl.SSLError is an OSError
            self.error = redact(f"{self.where}: {err}")
            return
        client.loop_start()
        while not self._down.wait(0.2):
            if not greeted.is_set() and time.monotonic() - self._connecting_s > CONNACK_S:
                self.error = f"{self.where} does not greet; is it an MQTT broker, and is tls set right?"
                break
        with self._lock:
            self._client = None
            self._keys.clear()
            self._early.clear()
        client.disconnect()
        client.loop_stop()

    def _made(self, greeted: threading.Event) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self._id, protocol=self._version, reconnect_on_failure=False)
        if self.where.user is not None:
            client.username_pw_set(self.where.user, self.where.password)
        if self.where.tls:
            context = ssl.create_default_context(cafile=self.where.ca_file)
            if self.where.insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            client.tls_set_context(context)
        if self._will:
            client.will_set(self._will[0], self._will[1], qos=1, retain=True)
        self._connecting_s = time.monotonic()
        client.on_connect = lambda _client, _data, _flags, code, _properties: self._greeted(client, code, greeted)
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: self._lost(code, greeted)
        client.on_message = lambda _client, _data, message: self._on_message(message.topic, bytes(message.payload))
        client.on_publish = lambda _client, _data, mid, _code, _properties: self._sent(mid)
        return client

    def _greeted(self, client: mqtt.Client, code: Any, greeted: threading.Event) -> None:
        greeted.set()
        if code.is_failure:
            if code.value == UNSUPPORTED:
                self._version = mqtt.MQTTv311
            self.error = f"{self.where} refuses us: {code}; check user_env and password_env."
            self._down.set()
            return
        with self._lock:
            self._client, self.error = client, ""
            self.connects += 1
        self._on_up()

    def _lost(self, code: Any, greeted: threading.Event) -> None:
        if not self.error:
            self.error = f"{self.where}: connection lost ({code})"
        if not greeted.is_set():
            self.error = f"{self.where} hangs up before it greets; is tls set right for this port?"
        with self._lock:
            self._client = None
        self._down.set()

    def _sent(self, mid: int) -> None:
        """Takes no lock: paho calls it holding one of its own, which publish() wants."""
        key = self._keys.pop(mid, None)
        if key is None:
            self._early.add(mid)
        else:
            self._early.discard(mid)
            self._on_sent(key)
