"""A process that runs trials, one after the other: a trial that runs out of memory takes this process with it, and not the search.

``python -m edgemm.pipeline.searching.worker`` speaks as ``edgemm.box.measuring.worker`` does: a JSON object a line, on stdin and on the
stdout it was started with. It ends at once when the search that started it does.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from edgemm.box.devices import threads
from edgemm.contracts import recipe as recipes
from edgemm.contracts.libraries import quiet_imports, quiet_warnings
from edgemm.contracts.plain_values import plain
from edgemm.errors import EdgemmError
from edgemm.pipeline.job import Job, start
from edgemm.pipeline.searching import trial


def main() -> None:
    """Answer commands until ``stop``, or until the search is gone."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threads.wait_passively()
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    worker = _Worker()
    with quiet_imports(), quiet_warnings():
        while (command := commands.get())["do"] != "stop":
            out.write(json.dumps(_answer(worker, command)) + "\n")
            out.flush()
        worker.close()
    os._exit(0)


def _listen(commands: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    os._exit(1)  # the search was killed: what it had asked for, nobody waits for


def _answer(worker: _Worker, command: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(getattr(worker, command["do"])(**command["with"]))
    except EdgemmError as err:
        return {"error": {"kind": type(err).__name__, "what": err.what, "why": err.why, "fix": err.fix}}
    except MemoryError:
        return {"error": {"kind": "MeasureError", "what": "out of memory.", "why": "", "fix": "take fewer workers, or smaller batches."}}
    except Exception:  # anything at all: the search reports it, whole
        return {"error": {"kind": "", "what": traceback.format_exc(), "why": "", "fix": ""}}


class _Worker:
    """The commands. Each returns plain JSON values."""

    def __init__(self) -> None:
        self._jobs: dict[int, Job] = {}

    def open(self, card: str, data: str, skip_bad_rows: bool) -> dict[str, Any]:
        """Read the card and the data that all trials are about."""
        self._jobs = {0: start(card, data, skip_bad_rows=skip_bad_rows)}
        self._jobs[0].predictor.__enter__()
        return {}

    def sized(self, recipe: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
        """See ``trial.sized``."""
        job = self._seeded(seed)
        return dict(plain(trial.sized(job, recipes.parse(recipe, name=name, card=job.card))))

    def answered(self, recipe: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
        """See ``trial.answered``."""
        job = self._seeded(seed)
        return dict(plain(trial.answered(job, recipes.parse(recipe, name=name, card=job.card))))

    def close(self) -> None:
        if self._jobs:
            self._jobs[0].predictor.__exit__()

    def _seeded(self, seed: int) -> Job:
        """The run with a seed; what it read of model and data for its keys, it keeps."""
        return self._jobs.setdefault(seed, trial.seeded(self._jobs[0], seed))


if __name__ == "__main__":
    main()
