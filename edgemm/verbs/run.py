"""`edgemm run`: serve a bundle on this box, from cameras, microphones, topics or recordings to events."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgemm import plugins
from edgemm.bundle import open_bundle
from edgemm.runtime import settings as run_settings
from edgemm.runtime.running import Runner, Summary


def run(
    bundle: str | Path,
    *,
    config: str | Path | None = None,
    source: Sequence[str] = (),
    target: str | None = None,
    jsonl: str | Path | None = None,
    mqtt: str | None = None,
    web: str | None = None,
    quiet: bool = False,
    fast: bool = False,
    seconds: float | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Serve ``bundle`` until a signal, until ``stop`` is set, or until every recording has ended.

    Args:
        bundle: A bundle folder or ``.edgemm`` file.
        config: ``run.yaml``; what the other arguments say is added to it.
        source: ``INPUTS=PLACE`` each, such as ``image,audio=rtsp://host/live``; a place is an address, a file, a folder, ``/dev/video0``,
            ``microphone``, ``mqtt://host/topic``.
        target: Where it runs; None = the first of the bundle's targets that this box has.
        jsonl: File to append events to.
        mqtt: ``mqtt://host:port`` (``mqtts://`` with TLS) to publish to; user and password come from ``EDGEMM_MQTT_USER`` and
            ``EDGEMM_MQTT_PASSWORD`` where those are set.
        web: Port, or ``HOST:PORT``, to serve the page on.
        quiet: Nothing is printed while it runs.
        fast: Play recordings as fast as the box can.
        seconds: End after so long.

    Raises:
        RunError: The settings do not fit the model, or a source or sink cannot be made. Mistakes: several do not.
        BundleError: The bundle is damaged.
        MissingExtra: A package is missing; names the extra.
    """
    opened = open_bundle(bundle)
    extra: dict[str, Any] = {"sources": run_settings.of_words(source), "sinks": [] if quiet else [{"console": {}}]}
    extra["sinks"] += [{"jsonl": {"path": str(jsonl)}}] if jsonl else []
    extra["sinks"] += [{"mqtt": run_settings.broker_of(mqtt)}] if mqtt else []
    extra |= {"web": run_settings.page_of(web)} if web is not None else {}
    extra |= {"target": target} if target else {}
    settings = run_settings.load(config, opened.card, extra=extra)
    runner = Runner(opened, settings, fast=fast)
    if settings.web is not None and not fast:
        _serve_page(runner, settings.web, quiet)
    stop = stop or threading.Event()
    with _signals(stop):
        return runner.run(stop, seconds)


def _serve_page(runner: Runner, settings: run_settings.WebSettings, quiet: bool) -> None:
    try:
        from edgemm.runtime.web import Page  # a box without the page needs no web server
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "the page") from err
    page = Page(runner, settings)
    runner.add_sink("web", page)
    runner.on_tick.append(page.pulse)
    if not quiet:
        print(f"page: {page.address}", flush=True)


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run in good order; only in the main thread, where signals can be taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
