"""In the worker: calls at a pace, and as many as possible from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.box.bundle.parts import Parts
from edgemm.contracts.probe import Probe
from edgemm.contracts.target import Session

WARM_CALLS = 2


def stepper(parts: Parts, feed: Mapping[str, np.ndarray]) -> Callable[[Sequence[str]], Any]:
    """A step of a model in parts: the branches of the inputs that are new run, and the rest on what every branch last said."""
    embedded = {name: parts.embed(name, feed) for name in parts.cuts}

    def step(new: Sequence[str]) -> Any:
        embedded.update({name: parts.embed(name, feed) for name in new if name in embedded})
        return parts.answer(embedded, {}, feed)

    return step


def paced(step: Callable[[Sequence[str]], Any], rates_hz: Mapping[str, float], steps: int, probes: Mapping[str, Probe]) -> dict[str, Any]:
    """Call ``step`` at the fastest of the rates, sleeping in between as a program that waits for a camera does.

    A step that is due while the last one still runs is dropped, as a frame is.

    Args:
        rates_hz: Input -> how often it is new.
        probes: By name; they see the time between steps too.

    Returns:
        ``latency_ms`` and ``late_ms`` (how long after its time a step began) a step; ``dropped`` steps; ``samples`` of each probe;
        ``seconds``.
    """
    period = 1 / max(rates_hz.values())
    latencies, lates, dropped, last_seen = [], [], 0, dict.fromkeys(rates_hz, 0)
    for probe in probes.values():
        probe.start()
    began = time.perf_counter()
    for number in range(1, steps + 1):
        due = began + number * period
        wait = due - time.perf_counter()
        if wait < -period:
            dropped += 1
            continue
        if wait > 0:
            time.sleep(wait)
        start = time.perf_counter()
        seen = {name: int(number * period * hz + 1e-6) for name, hz in rates_hz.items()}
        step([name for name in seen if seen[name] > last_seen[name]])
        latencies.append((time.perf_counter() - start) * 1e3)
        lates.append(max(0.0, start - due) * 1e3)
        last_seen = seen
        for probe in probes.values():
            probe.observe({}, None)
    seconds = time.perf_counter() - began
    samples = {name: probe.stop() for name, probe in probes.items()}
    return {"latency_ms": latencies, "late_ms": lates, "dropped": dropped, "samples": samples, "seconds": seconds}


def most(sessions: Sequence[Session], feed: Mapping[str, np.ndarray], seconds: float) -> float:
    """Calls a second of all sessions together, each called by a thread of its own, for about ``seconds``."""
    counts, spans = [0] * len(sessions), [0.0] * len(sessions)
    failures: list[BaseException] = []
    gate = threading.Barrier(len(sessions))

    def work(index: int) -> None:
        session = sessions[index]
        try:
            for _ in range(WARM_CALLS):
                session.run(feed)
            gate.wait()
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                session.run(feed)
                counts[index] += 1
            spans[index] = time.perf_counter() - began
        except BaseException as err:  # told by the thread that started us
            failures.append(err)
            gate.abort()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [err for err in failures if not isinstance(err, threading.BrokenBarrierError)]
    if real:
        raise real[0]
    return sum(count / span for count, span in zip(counts, spans, strict=True))
