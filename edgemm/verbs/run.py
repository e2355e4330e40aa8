"""`edgemm run`: serve a bundle here: cameras and microphones to events."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgemm.box.bundle.opened import open_bundle
from edgemm.box.serving import command_line as command_words
from edgemm.box.serving import run_yaml, systemd
from edgemm.box.serving.health import Summary
from edgemm.box.serving.runner import Runner
from edgemm.box.serving.secrets import Crash, Redacting
from edgemm.box.serving.settings import WebSettings
from edgemm.box.serving.supervising import Supervision
from edgemm.box.serving.supervising import supervise as keep_running
from edgemm.box.serving.swapping import Swapper
from edgemm.box.serving.systemd import Installed, SystemdNotifier
from edgemm.contracts import plugins
from edgemm.errors import EdgemmError, RunError
from edgemm.redaction import redact
from edgemm.report.terminal import FELL_SHORT, Ending


def run(
    bundle: str | Path,
    *,
    config: str | Path | None = None,
    source: Sequence[str] = (),
    sink: Sequence[str] = (),
    target: str | None = None,
    jsonl: str | Path | None = None,
    mqtt: str | None = None,
    web: str | None = None,
    quiet: bool = False,
    fast: bool = False,
    seconds: float | None = None,
    supervise: bool = False,
    install_service: bool = False,
    stop: threading.Event | None = None,
) -> Summary | Supervision | Installed:
    """Serve ``bundle`` until a signal, until ``stop`` is set, or until every recording has ended.

    On SIGHUP the bundle is read again: what now lies at its path serves from then on, if it proves itself on its golden samples here.
    A camera, broker or webhook that was never there in all the time is told at the end, and the command exits with 3.

    Args:
        bundle: A bundle folder or ``.edgemm`` file.
        config: run.yaml: sources, rates, decisions, sinks; what the other arguments say is added to it.
        source: What feeds which inputs, such as ``image,audio=rtsp://host/live``; a place is an address, a file, a folder, ``/dev/video0``,
            ``microphone``, ``mqtt://host/topic``. May be repeated.
        sink: Where decisions go: ``events.jsonl``, ``mqtts://host``, ``https://host/hook``. May be repeated.
        target: Where it runs; without it the first of the bundle's targets, in its order, that this box has.
        jsonl: File to append events to.
        mqtt: ``mqtt://host:port`` (``mqtts://`` with TLS) to publish to; user and password come from ``EDGEMM_MQTT_USER`` and
            ``EDGEMM_MQTT_PASSWORD`` where those are set.
        web: Port, or ``HOST:PORT``, to serve the page on; the token for other hosts than this machine comes from ``EDGEMM_WEB_TOKEN``.
        quiet: Print nothing while it runs.
        fast: Play recordings as fast as the box can.
        seconds: End after so long.
        supervise: Run in a child process that is started again when it crashes or hangs.
        install_service: Only write a systemd unit that runs this very command.

    Raises:
        RunError: The settings do not fit the model, or a source or sink cannot be made. Mistakes: several do not.
        BundleError: The bundle is damaged.
        MissingExtra: A package is missing; names the extra.
    """
    opened = open_bundle(bundle)
    extra: dict[str, Any] = {"sources": command_words.of_words(source), "sinks": [] if quiet else [{"console": {}}]}
    extra["sinks"] += command_words.of_sinks([str(jsonl)], kind="jsonl") if jsonl else []
    extra["sinks"] += command_words.of_sinks([*([mqtt] if mqtt else []), *sink])
    extra |= {"web": command_words.page_of(web)} if web is not None else {}
    extra |= {"target": target} if target else {}
    settings = run_yaml.load(config, opened.card, extra=extra)
    again = _arguments(bundle, {"config": config, "target": target, "jsonl": jsonl, "mqtt": mqtt, "web": web}, source, sink, quiet)
    stop = stop or threading.Event()
    if install_service:
        return systemd.install(again, settings)
    if supervise:
        return _supervised([*again, *(["--seconds", str(seconds)] if seconds else []), *(["--fast"] if fast else [])], stop)
    runner = Runner(opened, settings, fast=fast)
    swapper, notifier = Swapper(runner, Path(bundle)), SystemdNotifier()
    runner.on_tick += [notifier.beat, swapper.look]
    runner.describe_more["swap"] = swapper.describe
    if settings.web is not None and not fast:
        _serve_page(runner, settings.web, quiet)
    with _signals(stop, on_hangup=swapper.ask), _logging():
        try:
            return runner.run(stop, seconds)
        except EdgemmError:
            raise
        except Exception as err:  # a library's own words may hold an address with its password
            raise RunError(
                redact(f"{type(err).__name__}: {err}"),
                why="edgemm did not expect this.",
                fix="run it with --debug to see where it happens.",
            ) from Crash(err)
        finally:
            notifier.stopping()
            notifier.close()


def ending(done: Summary | Supervision | Installed, **_: Any) -> Ending:
    """What it did, and whether something was never there."""
    return Ending(done, fell_short=bool(getattr(done, "never_came", False)))


def _serve_page(runner: Runner, settings: WebSettings, quiet: bool) -> None:
    try:
        from edgemm.box.serving.web import Page  # a box without the page needs no web server
    except ModuleNotFoundError as err:
        raise plugins.missing_extra(err, "the page") from err
    page = Page(runner, settings)
    runner.add_sink("web", page)
    runner.on_tick.append(page.pulse)
    if not quiet:
        print(f"page: {page.address}", flush=True)


def _arguments(bundle: str | Path, options: Mapping[str, Any], source: Sequence[str], sink: Sequence[str], quiet: bool) -> list[str]:
    """The same run as words of a command line, its paths absolute."""
    line = [str(Path(bundle).absolute())]
    for word in source:
        names, _, location = word.partition("=")
        line += ["--source", f"{names}={Path(location).absolute()}" if os.path.exists(location) else word]
    for location in sink:
        line += ["--sink", str(Path(location).absolute()) if Path(location).suffix and "://" not in location else location]
    for name, value in options.items():
        if value is not None:
            line += [f"--{name}", str(Path(value).absolute()) if name in ("config", "jsonl") else str(value)]
    return line + (["--quiet"] if quiet else [])


def _supervised(arguments: Sequence[str], stop: threading.Event) -> Supervision:
    """Run ``edgemm run`` in a child for as long as it takes.

    Raises:
        RunError: The child ended with a mistake; it has said which.
    """
    supervision, children = Supervision(), list[subprocess.Popen[bytes]]()

    def hang_up(*_: object) -> None:
        if children:
            children[-1].send_signal(signal.SIGHUP)

    with _signals(stop, on_hangup=hang_up):
        code = keep_running([sys.executable, "-m", "edgemm", "run", *arguments], stop, on_start=children.append, told=supervision)
    supervision.never_came = code == FELL_SHORT
    if code and not supervision.never_came:
        raise RunError("the supervised run could not be started.", why="it ended with the mistake above.", fix="mend that.")
    return supervision


@contextmanager
def _signals(stop: threading.Event, *, on_hangup: Callable[..., None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run in good order; only in the main thread, where signals can be taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[..., None]] = {signal.SIGTERM: lambda *_: stop.set(), signal.SIGINT: lambda *_: stop.set()}
    before = {number: signal.signal(number, handler) for number, handler in {**handlers, signal.SIGHUP: on_hangup}.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Warnings of a run, and what ends one of its threads, go to stderr, without any secret in them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Redacting())
    log, before = logging.getLogger("edgemm.run"), threading.excepthook
    log.addHandler(handler)
    threading.excepthook = lambda given: log.error("a thread ended: %s", Crash(given.exc_value) if given.exc_value else given.exc_type)
    try:
        yield
    finally:
        threading.excepthook = before
        log.removeHandler(handler)
