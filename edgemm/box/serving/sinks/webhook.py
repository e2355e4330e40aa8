"""An HTTP address that gets every event as JSON."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from edgemm.box.serving.outbox import Letter, Outbox
from edgemm.box.serving.secrets import redact, refuse_password, secret
from edgemm.contracts.decision import Decision
from edgemm.contracts.sink import About, Event, Sink
from edgemm.errors import RunError

PLACES = ("http://*", "https://*")
PAUSE_S = 2.0  # after a failed try; the outbox keeps the event
REFUSED = range(400, 500)  # the other side will not take it later either, except:
LATER = (408, 425, 429)


class Webhook(Sink):
    """POSTs each event once it happens; what could not be delivered waits until its time is over. The id tells repetitions apart."""

    def __init__(
        self, *, url: str, token_env: str | None = None, token_file: str | None = None, timeout_s: float = 5.0, event_ttl_s: float = 600.0
    ) -> None:
        """
        Args:
            url: ``https://...``, or ``http://...`` within the house.
            token_env, token_file: Where a token stands that goes along as ``Authorization: Bearer``.

        Raises:
            RunError: No such address, or a secret is not there.
        """
        refuse_password(url, "sinks.webhook.url")
        if not url.startswith(("http://", "https://")):
            raise RunError(f"sinks.webhook.url: '{url}' is no web address.", fix="write it as https://host/path.")
        self._url, self._timeout_s = url, timeout_s
        self._token = secret(token_env, token_file, "sinks.webhook: token")
        self._outbox = Outbox(event_ttl_s)
        self._again_s, self._error, self._refused = 0.0, "", 0
        self._opener = urllib.request.build_opener(_NoRedirect)

    @classmethod
    def options_at(cls, place: str) -> dict[str, Any]:
        return {"url": place}

    def start(self, about: About) -> None:
        pass  # nothing to say before the first event

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
        return {"waiting": len(self._outbox), "expired": self._outbox.expired, "refused": self._refused, "why": self._error}

    def _flush(self) -> None:
        if time.monotonic() < self._again_s:
            return
        for letter in self._outbox.waiting():
            if not self._deliver(letter):
                self._again_s = time.monotonic() + PAUSE_S
                return

    def _deliver(self, letter: Letter) -> bool:
        headers = {"Content-Type": "application/json", "Idempotency-Key": letter.id}
        headers |= {"Authorization": f"Bearer {self._token}"} if self._token else {}
        request = urllib.request.Request(letter.place, letter.content, headers, method="POST")
        try:
            self._opener.open(request, timeout=self._timeout_s).close()
        except urllib.error.HTTPError as err:
            self._error = f"{err.code} {err.reason}"
            if err.code not in REFUSED or err.code in LATER:
                return False
            self._refused += 1
        except (OSError, ValueError) as err:  # URLError is an OSError
            self._error = redact(str(err))
            return False
        self._outbox.done(letter.id)
        return True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another place."""

    def redirect_request(self, *arguments: Any, **more: Any) -> None:
        return None
