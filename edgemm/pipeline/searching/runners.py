"""Who runs trials: processes of this machine. Whoever sends them elsewhere takes the same tasks and gives the same outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Literal, Protocol

from edgemm.box.measuring.process import WorkerProcess
from edgemm.contracts.plain_values import read
from edgemm.errors import EdgemmError
from edgemm.pipeline.searching.trial import Graph
from edgemm.store import in_use

MODULE = "edgemm.pipeline.searching.worker"
SILENCE_S = 7 * 86400.0  # a training says nothing until it is done, however long it takes


@dataclass(frozen=True)
class Task:
    """What is to be done for one trial.

    Attributes:
        do: A function of ``trial``.
        recipe: As ``recipe.parse`` takes it.
        alone: Whether nothing else may run meanwhile, since a step times something.
    """

    do: Literal["sized", "answered"]
    name: str
    recipe: dict[str, Any]
    seed: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a graph, or the error that ended it, and whether the process died of it."""

    graph: Graph | None
    error: EdgemmError | None = None
    crashed: bool = False


class Runner(Protocol):
    """Runs tasks somewhere. A task's outcome depends on the task alone, never on who runs it or beside what."""

    def run(self, tasks: Sequence[Task], done: Callable[[int], None]) -> list[Outcome]:
        """What came of each task, in their order.

        Args:
            done: Called with how many are done.
        """
        ...


class LocalRunner:
    """Runs tasks in processes of this machine. A context manager that ends them.

    Args:
        card, data, skip_bad_rows: What all trials are about.
        workers: Processes.
        threads: Of each process, however many there are: sums in another order would be another training.
    """

    def __init__(self, card: str, data: str, *, skip_bad_rows: bool, workers: int, threads: int) -> None:
        self._opening: dict[str, Any] = {"card": card, "data": data, "skip_bad_rows": skip_bad_rows}
        self._workers, self._threads = workers, threads
        self._all: list[WorkerProcess] = []
        self._idle: SimpleQueue[WorkerProcess] = SimpleQueue()

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._all:
            worker.stop()

    def run(self, tasks: Sequence[Task], done: Callable[[int], None]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        beside = [place for place, task in enumerate(tasks) if not task.alone]
        with ThreadPoolExecutor(max_workers=self._workers) as pool:
            running = {pool.submit(self._outcome, tasks[place]): place for place in beside}
            try:
                for future in as_completed(running):
                    outcomes[running[future]] = future.result()
                    done(len(outcomes))
            except BaseException:  # such as Ctrl-C: nobody waits for trainings then
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in self._all:
                    worker.kill()
                raise
        for place in (place for place, task in enumerate(tasks) if task.alone):
            outcomes[place] = self._outcome(tasks[place])
            done(len(outcomes))
        return [outcomes[place] for place in range(len(tasks))]

    def used(self, root: Path) -> frozenset[str]:
        """What its processes used of a cache so far, as paths below ``root``."""
        return frozenset(name for worker in self._all for name in in_use.used(root, worker.pid))

    def _outcome(self, task: Task) -> Outcome:
        worker = self._worker()
        worker.name = task.name
        try:
            answer = worker.ask(task.do, limit_s=SILENCE_S, recipe=task.recipe, name=task.name, seed=task.seed)
        except EdgemmError as err:
            crashed = not worker.is_alive
            if not crashed:
                self._idle.put(worker)
            return Outcome(None, err, crashed)
        self._idle.put(worker)
        return Outcome(read(Graph, answer))

    def _worker(self) -> WorkerProcess:
        with suppress(Empty):
            return self._idle.get_nowait()
        variables = {"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": None, "PYTHONUNBUFFERED": "1"}
        worker = WorkerProcess("a worker", module=MODULE, doing="it was tried", variables=variables)
        self._all.append(worker)
        worker.ask("open", limit_s=SILENCE_S, **self._opening)
        return worker


def threads_of(batch: int) -> int:
    """Threads of a trial: as ``$OMP_NUM_THREADS`` says, else its share of the cores where a whole batch runs at once."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdigit() and int(asked) else max(1, cores // batch)
