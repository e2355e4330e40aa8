"""What the command line of `edgemm run` says in one word, as entries of ``run.yaml``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from edgemm.box.serving.secrets import refuse_password
from edgemm.contracts import plugins
from edgemm.contracts.sink import Sink
from edgemm.contracts.source import Source
from edgemm.errors import RunError
from edgemm.redaction import redact

WEB_ENV = "EDGEMM_WEB_TOKEN"


def of_words(words: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    """``["image,audio=rtsp://host/live"]`` as entries of ``sources``.

    Raises:
        RunError: Not of that form, or an address with a password.
    """
    entries = []
    for word in words:
        names, equals, address = word.partition("=")
        refuse_password(*((address, f"--source {names}") if "://" not in names else (word, "--source")))
        if not equals or not names or not address or "://" in names:
            raise RunError(f"--source '{redact(word)}' is not INPUTS=PLACE.", fix="write it as image,audio=rtsp://host/live.")
        kind = _kind("sources", address)
        entries.append({kind: {"inputs": [name.strip() for name in names.split(",")], **plugins.find(Source, kind).options_at(address)}})
    return entries


def of_sinks(places: Sequence[str], *, kind: str = "") -> list[dict[str, dict[str, Any]]]:
    """``["mqtts://broker", "events.jsonl"]`` as entries of ``sinks``.

    Args:
        kind: The sink that takes them; "" = the one whose ``PLACES`` fit.

    Raises:
        RunError: No sink takes such a place, or it carries a password.
    """
    for address in places:
        refuse_password(address, "--sink")
    named = [(kind or _kind("sinks", address), address) for address in places]
    return [{name: plugins.find(Sink, name).options_at(address)} for name, address in named]


def page_of(place: str) -> dict[str, Any]:
    """``8099`` or ``0.0.0.0:8099`` as entries of ``web``; a token for other places than this machine stands in ``EDGEMM_WEB_TOKEN``.

    Raises:
        RunError: No port in it.
    """
    bind, _, port = place.rpartition(":")
    if not port.isdigit():
        raise RunError(f"--web '{place}' is no port.", fix="write it as 8099, or 0.0.0.0:8099.")
    options: dict[str, Any] = {"port": int(port)} | ({"bind": bind.strip("[]")} if bind else {})
    return options | ({"token_env": WEB_ENV} if WEB_ENV in os.environ else {})


def _kind(kind: str, address: str) -> str:
    """The source or sink whose ``PLACES`` say most of an address.

    Raises:
        RunError: None does.
    """
    looks = f"{address.rstrip('/')}/" if "://" not in address and os.path.isdir(address) else address
    patterns = {pattern: name for name in plugins.names(kind) for pattern in plugins.constant(kind, name, "PLACES") or ()}
    fitting = [pattern for pattern in patterns if fnmatchcase(looks, pattern)]
    if not fitting:
        raise RunError(f"no {plugins.singular(kind)} takes '{address}'.", fix=f"places look like {', '.join(sorted(patterns))}.")
    return patterns[max(fitting, key=lambda pattern: len(pattern.replace("*", "")))]
