"""What a probe is: one kind of measurement, taken in the worker's process while a session runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgemm.contracts import plugins
from edgemm.contracts.report import Measurement

CALLS, ROWS = "calls", "rows"


def watching(what: str) -> list[str]:
    """Names of the probes that watch ``CALLS`` (timed ones, on one sample), or ``ROWS`` (a whole split of a dataset).

    A probe's source says so at its top, ``WATCHES = "rows"``; without it the probe watches calls.
    """
    return [name for name in plugins.names("probes") if (plugins.constant("probes", name, "WATCHES") or CALLS) == what]


def watching_pace() -> list[str]:
    """Names of the probes that watch calls at a pace too, the pauses between them included: ``AT_PACE = True`` in their source."""
    return [name for name in plugins.names("probes") if plugins.constant("probes", name, "AT_PACE")]


class Probe(Protocol):
    """One kind of measurement. Only the scheduler owns processes and order.

    An instance in the worker lives through rounds of ``start``, ``observe`` after each call, ``stop``. Another one, beside the
    scheduler, turns the samples of all rounds into measurements. A plugin class may take keyword-only options in ``__init__``.
    """

    def start(self) -> None:
        """A round begins; the first call follows at once."""
        ...

    def observe(self, answers: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray] | None) -> None:
        """A call ended. ``truth`` is what the dataset says about its rows, where they come from one.

        Part of what a latency probe times: it must be cheap.
        """
        ...

    def stop(self) -> Any:
        """The round's samples as plain JSON values."""
        ...

    def summarise(self, samples: Sequence[Any]) -> list[Measurement]:
        """Measurements of the samples of all rounds, about no subject yet (the caller adds subject, candidate, target, precision)."""
        ...
