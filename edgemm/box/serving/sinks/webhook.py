"""An HTTP address that gets every event as JSON."""

from __future__ import annotations

import json
import socket
import string
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from edgemm.box.serving.outbox import Letter, Outbox
from edgemm.box.serving.secrets import headers_of, refuse_password, secret, with_secrets
from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import About, Event, Sink
from edgemm.errors import RunError
from edgemm.redaction import redact

PLACES = ("http://*", "https://*")
PAUSE_S = 2.0  # after a failed try; the outbox keeps the event
REFUSED = range(400, 500)  # the other side will not take it later either, except:
LATER = (408, 425, 429)
ASCII = string.punctuation.replace("%", "") + " "  # of an event's id in a header; a label may be in any alphabet


class Webhook(Sink):
    """POSTs each event once it happens; what could not be delivered waits until its time is over. The id tells repetitions apart."""

    def __init__(
        self,
        *,
        url: str,
        token_env: str | None = None,
        token_file: str | None = None,
        query_env: dict[str, str] | None = None,
        url_env: dict[str, str] | None = None,
        headers_env: dict[str, str] | None = None,
        timeout_s: float = 5.0,
        event_ttl_s: float = 600.0,
    ) -> None:
        """
        Args:
            url: ``https://...``, or ``http://...`` within the house.
            token_env, token_file: Where a token stands that goes along as ``Authorization: Bearer``.
            query_env: What stands in the address's query and nobody is to read, such as ``{key: HOOK_KEY}``: the environment variable of
                each.
            url_env: What belongs elsewhere in the address, written there as ``{name}``, likewise: ``{name: HOOK_ID}``.
            headers_env: Headers, such as ``{X-Api-Key: HOOK_KEY}``: the environment variable that holds the whole of each.

        Raises:
            RunError: No such address, a secret is not there, or there are two for one header.
        """
        refuse_password(url, "sinks.webhook.url")
        if not url.startswith(("http://", "https://")):
            raise RunError(f"sinks.webhook.url: '{url}' is no web address.", fix="write it as https://host/path.")
        self._url, self._timeout_s = with_secrets(url, url_env, query_env, "sinks.webhook"), timeout_s
        token = secret(token_env, token_file, "sinks.webhook: token")
        self._headers = headers_of(headers_env, url, "sinks.webhook")
        if token is not None and "authorization" in map(str.lower, self._headers):
            raise RunError("sinks.webhook: a token and headers_env both give Authorization.", fix="keep one of them.")
        self._headers |= {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._outbox = Outbox(event_ttl_s)
        self._again_s, self._error, self._refused, self._connects = 0.0, "", 0, 0
        self._opener = urllib.request.build_opener(_NoRedirect)

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"url": place}

    def start(self, about: About) -> None:
        """Look whether anybody is there, so that it is told before the first event; through a proxy there is no telling."""
        parts = urlsplit(self._url)
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or ""):
            return
        try:
            place = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection(place, self._timeout_s).close()
            self._connects += 1
        except (OSError, ValueError) as err:
            self._error = redact(f"{parts.hostname}: {err}")

    def decision(self, decision: Decision) -> None:
        self._flush()

    def event(self, event: Event) -> None:
        self._outbox.put(event.id, self._url, json.dumps(event.to_dict(), ensure_ascii=False).encode())
        self._flush()

    def status(self, status: Mapping[str, Any]) -> None:
        self._flush()

    def stop(self) -> None:
        self._again_s = 0.0
        self._flush()

    def describe(self) -> dict[str, Any]:
        return {
            "waiting": len(self._outbox),
            "expired": self._outbox.expired,
            "refused": self._refused,
            "why": self._error,
            "connects": self._connects,
        }

    def _flush(self) -> None:
        if time.monotonic() < self._again_s:
            return
        for letter in self._outbox.waiting():
            if not self._deliver(letter):
                self._again_s = time.monotonic() + PAUSE_S
                return

    def _deliver(self, letter: Letter) -> bool:
        headers = {"Content-Type": "application/json", "Idempotency-Key": quote(letter.id, safe=ASCII), **self._headers}
        request = urllib.request.Request(letter.place, letter.content, headers, method="POST")
        try:
            self._opener.open(request, timeout=self._timeout_s).close()
        except urllib.error.HTTPError as err:
            self._error, self._connects = f"{err.code} {err.reason}", self._connects + 1
            if err.code not in REFUSED or err.code in LATER:
                return False
            self._refused += 1
        except (OSError, ValueError) as err:  # URLError is an OSError
            self._error = redact(str(err))
            return False
        else:
            self._error, self._connects = "", self._connects + 1
        self._outbox.done(letter.id)
        return True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another place."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None
