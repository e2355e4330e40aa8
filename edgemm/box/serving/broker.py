"""A connection to an MQTT broker that comes back by itself. Nothing is ever handed to paho while it is not connected.

paho keeps what was published while disconnected and sends it after the reconnect, after what ``on_connect`` published: a stale state
would win over a fresh one. So every connection is a new client without a past; what is to survive is kept by the caller.

paho calls back while it holds locks of its own that ``publish`` wants too. So what it says is only put into a queue there, and worked on
in a thread of ours: a callback that took a lock of ours once stood against a publisher for ever.
"""

from __future__ import annotations

import os
import queue
import random
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edgemm.box.serving.secrets import credentials, refuse_password
from edgemm.errors import RunError
from edgemm.redaction import redact

FIRST_WAIT_S, MOST_WAIT_S = 0.5, 15.0
KEEPALIVE_S = 15
CONNACK_S = 10.0
CONFIRM_S = 30.0  # without a confirmation for so long the connection counts as lost
LOOK_S = 0.2  # between two looks at what the broker has confirmed
WAITING = 1000  # messages from the broker that nobody has looked at; of more the oldest are left out
CLOSE_S = 5.0  # for paho's thread to end; then it is left to itself, and a new connection is made
UP, DOWN, MESSAGE = "up", "down", "message"
BROKER_ENV = {"user_env": "EDGEMM_MQTT_USER", "password_env": "EDGEMM_MQTT_PASSWORD"}
UNSUPPORTED = 132  # reason code of a broker that does not speak version 5


@dataclass(frozen=True)
class BrokerAddress:
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


@dataclass(frozen=True)
class Connection:
    """The options with which the MQTT source and the MQTT sink find their broker.

    Attributes:
        host, port: The broker; 1883, with TLS 8883.
        tls, ca_file, insecure: Encrypt; check the certificate against this authority; do not check it at all.
        user_env, password_env, password_file: Where user and password stand.
    """

    host: str
    port: int | None = None
    tls: bool = False
    ca_file: str | None = None
    insecure: bool = False
    user_env: str | None = None
    password_env: str | None = None
    password_file: str | None = None

    def address(self, what: str) -> BrokerAddress:
        """The address, with its secrets read.

        Raises:
            RunError: A secret is not there, or ``ca_file`` is none; ``what`` names the place.
        """
        if "/" in self.host or "@" in self.host:
            fix = "write its name or address alone, port beside it."
            raise RunError(f"{what}: host '{redact(self.host)}' is no name of a machine.", fix=fix)
        if self.ca_file is not None:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as err:
                raise RunError(f"{what}: ca_file '{self.ca_file}' cannot be used.", why=f"{err}.", fix="give a PEM certificate.") from err
        user, password = credentials(self.user_env, self.password_env, self.password_file, what)
        tls = self.tls or self.ca_file is not None or self.insecure
        return BrokerAddress(self.host, self.port, tls, self.ca_file, self.insecure, user, password)


def options_of(place: str) -> dict[str, Any]:
    """``mqtt://host:port/...`` as options of a ``Connection``; user and password come from the environment where they are set.

    Raises:
        RunError: Another scheme, or a password in it.
    """
    refuse_password(place, "mqtt")
    scheme, _, rest = place.partition("://")
    name, _, port = rest.partition("/")[0].partition(":")
    if scheme not in ("mqtt", "mqtts") or not name or (port and not port.isdigit()):
        raise RunError(f"'{place}' is no broker.", fix="write it as mqtt://host:1883, or mqtts://host:8883 with TLS.")
    options: dict[str, Any] = {"host": name, "tls": scheme == "mqtts"} | ({"port": int(port)} if port else {})
    return options | {key: env for key, env in BROKER_ENV.items() if env in os.environ}


class Broker:
    """Keeps one connection alive in a thread of its own. Every wait in here has an end.

    Args:
        name: Stands in the client's id, beside a random part: two boxes of one name must not throw each other out for ever.
        will: Topic and payload that the broker publishes, retained, when this process vanishes.
        on_up: Called after every connect; may publish and subscribe.
        on_message: Called with topic and payload of what arrives.
        on_sent: Called with the ``key`` of a publish that the broker has confirmed. All three in this class's own thread.

    Attributes:
        error: Why it is not connected, in words without secrets; "" until that is known.
        connects: How often it was connected.
    """

    def __init__(
        self,
        where: BrokerAddress,
        *,
        name: str = "source",
        will: tuple[str, str] | None = None,
        on_up: Callable[[], None] = lambda: None,
        on_message: Callable[[str, bytes], None] = lambda topic, payload: None,
        on_sent: Callable[[str], None] = lambda key: None,
    ) -> None:
        self.where, self._id, self._will = where, f"edgemm-{name[:9]}-{uuid.uuid4().hex[:6]}", will  # 23 letters: what every broker takes
        self._on_up, self._on_message, self._on_sent = on_up, on_message, on_sent
        self.error, self.connects = "", 0
        self._version = mqtt.MQTTv5
        self._client: mqtt.Client | None = None
        self._handed: dict[str, tuple[mqtt.MQTTMessageInfo, float]] = {}  # key -> what this connection has to confirm, and since when
        self._lock = threading.RLock()
        self._stop = threading.Event()
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
                self._handed[key] = info, time.monotonic()
            return True

    def subscribe(self, topic: str) -> None:
        with self._lock:
            if self._client is not None:
                self._client.subscribe(topic, 1)

    def stop(self, *, last: tuple[str, str] | None = None) -> None:
        """Say ``last`` (topic and payload, retained), and end the connection in good order; takes ten seconds at most."""
        with self._lock:
            info = self._client.publish(last[0], last[1], qos=1, retain=True) if last and self._client is not None else None
        end = time.monotonic() + 1.0
        while info is not None and self.connected and not _is_confirmed(info) and time.monotonic() < end:
            time.sleep(0.02)
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_S + CLOSE_S)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            began = time.monotonic()
            self._one_connection()
            wait_s = FIRST_WAIT_S if time.monotonic() - began > MOST_WAIT_S else min(MOST_WAIT_S, wait_s * 2)
            self._stop.wait(wait_s * random.uniform(0.5, 1.0))

    def _one_connection(self) -> None:
        """Connect, stay until the connection is lost or the end, and forget the client."""
        heard: queue.Queue[tuple[str, Any]] = queue.Queue(WAITING)
        client = self._made(heard)
        try:
            client.connect(self.where.host, self.where.own_port, KEEPALIVE_S)
        except (OSError, ValueError) as err:  # ssl.SSLError is an OSError
            self.error = redact(f"{self.where}: {err}")
            return
        client.loop_start()
        try:
            self._stay(client, heard)
        except Exception as err:  # whatever a caller's function raises: without this thread the connection would look alive for ever
            self.error = redact(f"{self.where}: {type(err).__name__}: {err}")
        with self._lock:
            self._client = None
            self._handed.clear()
        client.disconnect()
        ending = threading.Thread(target=client.loop_stop, name="mqtt ends", daemon=True)  # it would wait without limit
        ending.start()
        ending.join(CLOSE_S)

    def _made(self, heard: queue.Queue[tuple[str, Any]]) -> mqtt.Client:
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
        client.on_connect = lambda _client, _data, _flags, code, _properties: _put(heard, (UP, code))
        client.on_disconnect = lambda _client, _data, _flags, code, _properties: _put(heard, (DOWN, code))
        client.on_message = lambda _client, _data, message: _put(heard, (MESSAGE, (message.topic, bytes(message.payload))))
        return client

    def _stay(self, client: mqtt.Client, heard: queue.Queue[tuple[str, Any]]) -> None:
        """Work on what the broker says until the connection is lost, or the end."""
        began, greeted = time.monotonic(), False
        while not self._stop.is_set():
            what, detail = _next(heard)
            if what == UP:
                greeted = self._greeted(client, detail)
                if not greeted:
                    return
            elif what == MESSAGE:
                self._on_message(*detail)
            elif what == DOWN:
                hung_up = f"{self.where} hangs up before it greets; is tls set right for this port?"
                self.error = f"{self.where}: connection lost ({detail})" if greeted else hung_up
                return
            if not greeted and time.monotonic() - began > CONNACK_S:
                self.error = f"{self.where} does not greet; is it an MQTT broker, and is tls set right?"
                return
            if self._confirm() > CONFIRM_S:
                self.error = f"{self.where} confirms nothing for {CONFIRM_S:.0f} s"
                return

    def _greeted(self, client: mqtt.Client, code: Any) -> bool:
        """Whether the broker takes us."""
        if code.is_failure:
            if code.value == UNSUPPORTED:
                self._version = mqtt.MQTTv311
            self.error = f"{self.where} refuses us: {code}; check user_env and password_env."
            return False
        with self._lock:
            self._client, self.error = client, ""
            self.connects += 1
        self._on_up()
        return True

    def _confirm(self) -> float:
        """Tell what the broker has confirmed meanwhile; how long the oldest of the rest has waited, in seconds."""
        with self._lock:
            done = [key for key, (info, _) in self._handed.items() if _is_confirmed(info)]
            for key in done:
                del self._handed[key]
            oldest_s = min((since for _, since in self._handed.values()), default=None)
        for key in done:
            self._on_sent(key)
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s


def _put(heard: queue.Queue[tuple[str, Any]], word: tuple[str, Any]) -> None:
    """Called by paho, which may hold locks: never waits."""
    while True:
        try:
            heard.put_nowait(word)
            return
        except queue.Full:
            with suppress(queue.Empty):
                heard.get_nowait()


def _next(heard: queue.Queue[tuple[str, Any]]) -> tuple[str, Any]:
    try:
        return heard.get(timeout=LOOK_S)
    except queue.Empty:
        return "", None


def _is_confirmed(info: mqtt.MQTTMessageInfo) -> bool:
    try:
        return info.is_published()
    except (RuntimeError, ValueError):  # it never went out
        return False
