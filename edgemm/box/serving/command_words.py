"""What the command line of `edgemm run` says in one word, as entries of ``run.yaml``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemm.box.serving.secrets import refuse_password
from edgemm.errors import RunError

WEB_ENV = "EDGEMM_WEB_TOKEN"
BROKER_ENV = {"user_env": "EDGEMM_MQTT_USER", "password_env": "EDGEMM_MQTT_PASSWORD"}


def of_words(words: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    """``["image,audio=rtsp://host/live"]`` as entries of ``sources``.

    Raises:
        RunError: Not of that form, or an address with a password.
    """
    entries = []
    for word in words:
        names, equals, place = word.partition("=")
        if not equals or not names or not place:
            raise RunError(f"--source '{word}' is not INPUTS=PLACE.", fix="write it as image,audio=rtsp://host/live.")
        refuse_password(place, f"--source {names}")
        entries.append(_entry([name.strip() for name in names.split(",")], place))
    return entries


def broker_of(place: str) -> dict[str, Any]:
    """``mqtt://host:port/...`` as options of the MQTT source or sink.

    Raises:
        RunError: Another scheme, or a password in it.
    """
    refuse_password(place, "--mqtt")
    scheme, _, rest = place.partition("://")
    name, _, port = rest.partition("/")[0].partition(":")
    if scheme not in ("mqtt", "mqtts") or not name or (port and not port.isdigit()):
        raise RunError(f"'{place}' is no broker.", fix="write it as mqtt://host:1883, or mqtts://host:8883 with TLS.")
    given: dict[str, Any] = {"host": name, "tls": scheme == "mqtts"} | ({"port": int(port)} if port else {})
    given |= {key: env for key, env in BROKER_ENV.items() if env in os.environ}
    return given


def page_of(place: str) -> dict[str, Any]:
    """``8099`` or ``0.0.0.0:8099`` as entries of ``web``; a token for other places than this machine stands in ``EDGEMM_WEB_TOKEN``.

    Raises:
        RunError: No port in it.
    """
    bind, _, port = place.rpartition(":")
    if not port.isdigit():
        raise RunError(f"--web '{place}' is no port.", fix="write it as 8099, or 0.0.0.0:8099.")
    given: dict[str, Any] = {"port": int(port)} | ({"bind": bind.strip("[]")} if bind else {})
    return given | ({"token_env": WEB_ENV} if WEB_ENV in os.environ else {})


def _entry(inputs: list[str], place: str) -> dict[str, dict[str, Any]]:
    if place == "microphone" or place.startswith("microphone:"):
        device = place.partition(":")[2]
        return {"microphone": {"inputs": inputs} | ({"device": device} if device else {})}
    if place.startswith(("mqtt://", "mqtts://")):
        return {"mqtt": {"inputs": inputs, "topic": place.partition("://")[2].partition("/")[2], **broker_of(place)}}
    if "://" not in place and Path(place).is_dir():
        return {"folder": {"inputs": inputs, "path": place}}
    return {"stream": {"inputs": inputs, "url": place}}
