"""Runs trials on a Ray cluster, as plain tasks: each on a node, in a process of its own there, as on this machine.

What a trial makes comes back here: through a cache that all nodes see, or else by its name in the cache, which says what it was made of:
what a node lacks is sent there, and what it made is sent back.
"""

from __future__ import annotations

import logging
import platform
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired
from types import TracebackType
from typing import Any

from edgemm import __version__
from edgemm.contracts import stage_code
from edgemm.errors import MeasureError, RemoteError
from edgemm.pipeline.searching import ray_node
from edgemm.pipeline.searching.ray_node import Delivery, Here
from edgemm.pipeline.searching.runners import MODULE, Outcome, Task
from edgemm.store import cache, in_use
from edgemm.store.carried import carried, names, put

KNOCK_S = 3.0  # Ray itself tries for minutes to reach an address where nobody is
ANSWER_S = 5.0  # and for twenty seconds where somebody is who is no cluster
ASK = "import sys; from ray._raylet import GcsClient; print(flush=True); GcsClient(address=sys.argv[1])"
HELLO_S = 120.0  # a node's first process imports what it needs
TRIES = 2  # more, of a task whose process or node is gone
LOOK_S = 1.0


class RayRunner:
    """Runs tasks on the nodes of a cluster. A context manager that joins it.

    Args:
        address: ``auto`` or ``host:port``.
        card, data, skip_bad_rows: What all trials are about; the paths hold on every node.
        threads: Of each trial, wherever it runs.
        note: Told what a reader has to know of the cluster.
    """

    def __init__(
        self, address: str, card: str, data: str, *, skip_bad_rows: bool, threads: int, note: Callable[[str], None]
    ) -> None:  # fmt: skip
        self._address, self._threads, self._note = address, threads, note
        self._opening = {"card": str(_whole(card)), "data": str(_whole(data)), "skip_bad_rows": skip_bad_rows}
        self._is_shared, self._cpus = True, float(threads)
        self._sent: Any = None

    def __enter__(self) -> RayRunner:
        """Join the cluster, and find out whether its nodes can do the work.

        Raises:
            RemoteError: Nobody answers there, or a node lacks something.
        """
        join(self._address)
        try:
            self._meet()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def run(self, tasks: Sequence[Task], done: Callable[[int], None]) -> list[Outcome]:
        beside = [place for place, task in enumerate(tasks) if not task.alone]
        outcomes = self._run({place: tasks[place] for place in beside}, lambda count: done(count))
        for place, task in enumerate(tasks):
            if task.alone:
                outcomes |= self._run({place: task}, lambda count: None)
                done(len(outcomes))
        return [outcomes[place] for place in range(len(tasks))]

    def _leave(self) -> None:
        import ray

        ray.shutdown()

    def _meet(self) -> None:
        """Ask every node what it is."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        hello = ray.remote(num_cpus=0)(ray_node.hello)
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise RemoteError(
                f"no node of the cluster at {self._address} has a processor to give.", fix="start one: ray start --address ..."
            )
        token = cache.root() / ray_node.TOKEN / socket.gethostname()
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
        digest = stage_code.of(MODULE).digest
        asked = {
            node["NodeID"]: hello.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(token), self._opening
            )
            for node in nodes
        }
        answered, late = ray.wait(list(asked.values()), num_returns=len(asked), timeout=HELLO_S)
        names = {node["NodeID"]: node["NodeManagerHostname"] for node in nodes}
        if late:
            slow = [names[node] for node, reference in asked.items() if reference in late]
            self._note(f"no answer from {', '.join(slow)} within {HELLO_S:.0f} s; it may come later")
        told = [(names[node], _got(reference)) for node, reference in asked.items() if reference in answered]
        for name, here in told:
            _require_alike(name, here, digest)
        self._is_shared = all(here.sees_cache for _, here in told)
        most = max(node["Resources"]["CPU"] for node in nodes)
        self._cpus = min(self._threads, most)
        way = "the cache is shared" if self._is_shared else "what is made travels with the tasks, since not all nodes see this cache"
        self._note(f"{len(nodes)} nodes with {sum(node['Resources']['CPU'] for node in nodes):g} processors; {way}")

    def _run(self, tasks: Mapping[int, Task], done: Callable[[int], None]) -> dict[int, Outcome]:
        import ray

        if not tasks:
            return {}
        here = cache.root()
        root = str(here) if self._is_shared else None
        if self._sent is None:
            self._sent = ray.put({} if self._is_shared else carried(here, in_use.used(here)))
        known = ray.put(frozenset() if self._is_shared else names(here))
        remote = ray.remote(ray_node.trial).options(num_cpus=self._cpus, max_retries=TRIES)
        running = {remote.remote(self._opening, self._threads, task, root, self._sent, known): place for place, task in tasks.items()}
        outcomes: dict[int, Outcome] = {}
        try:
            while len(outcomes) < len(running):
                ready, _ = ray.wait([one for one, place in running.items() if place not in outcomes], timeout=LOOK_S)
                for one in ready:
                    outcomes[running[one]] = self._outcome(one, tasks[running[one]])
                    done(len(outcomes))
        except BaseException:  # such as Ctrl-C: nobody waits for trainings then
            for one in running:
                ray.cancel(one, force=True)
            raise
        return outcomes

    def _outcome(self, reference: Any, task: Task) -> Outcome:
        import ray
        from ray.exceptions import RayError

        try:
            delivery: Delivery = ray.get(reference)
        except RayError as err:
            why = f"{type(err).__name__}, after {TRIES + 1} tries: {str(err).strip().splitlines()[0] if str(err).strip() else ''}"
            return Outcome(None, MeasureError(f"'{task.name}' was lost with the process or the node it ran on.", why=why), crashed=True)
        put(cache.root(), delivery.made)
        return delivery.of(cache.root())


def join(address: str) -> None:
    """Connect this process to a cluster, once.

    Raises:
        RemoteError: Nobody is there; said within seconds.
    """
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        return
    if address != "auto":
        _knock(address)
    _hush()
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, RayError) as err:
        raise RemoteError(
            f"the Ray cluster '{address}' cannot be joined.",
            why=" ".join(str(err).split())[:300],
            fix="start one (ray start --head; ray start --address HOST:PORT on the others), or leave out --ray.",
        ) from err


def _hush() -> None:
    """Keep Ray from writing what a dying node says of itself, some 40 lines, among ours; a search tells what was lost."""
    with suppress(ImportError):
        from ray._private import worker

        worker.print_worker_logs = lambda *lines, **options: None


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise RemoteError(f"'{address}' is no address of a Ray cluster.", fix="write auto, or HOST:PORT such as 10.0.0.2:6379.")
    fix = "check the address that `ray start --head` printed, and that this machine may reach it; or leave out --ray."
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as err:
        raise RemoteError(f"nobody answers at {address}.", why=f"{err.strerror or err}.", fix=fix) from err
    with Popen([sys.executable, "-c", ASK, address], stdout=PIPE, stderr=DEVNULL) as asking:
        assert asking.stdout is not None
        asking.stdout.readline()  # Ray is imported
        try:
            asking.wait(ANSWER_S)
        except TimeoutExpired:
            asking.kill()
            raise RemoteError(
                f"what answers at {address} is no Ray cluster.", why=f"it said nothing to Ray in {ANSWER_S:.0f} s.", fix=fix
            ) from None


def _require_alike(name: str, here: Here, digest: str) -> None:
    """Raises RemoteError where a node would make something else of a trial than this machine, or cannot make it at all."""
    ours, theirs = (__version__, platform.python_version_tuple()[:2]), (here.version, tuple(here.python.split(".")[:2]))
    if here.problem:
        raise RemoteError(
            f"the node {name} cannot run trials.", why=here.problem, fix="the card and the data lie at the same path on each."
        )
    if ours != theirs or here.code != digest:
        raise RemoteError(
            f"the node {name} has another edgemm than this machine.",
            why=f"edgemm {here.version} on Python {here.python} there, {__version__} on {platform.python_version()} here"
            + (", and the code differs." if here.code != digest else "."),
            fix="install the same version on each node.",
        )


def _got(reference: Any) -> Here:
    import ray
    from ray.exceptions import RayError

    try:
        here: Here = ray.get(reference)
    except RayError as err:
        raise RemoteError(
            "a node of the cluster cannot start edgemm.", why=" ".join(str(err).split())[-300:], fix="install it there."
        ) from err
    return here


def _whole(path: str) -> Path | str:
    """A path as every process knows it; a name of something shipped, or of a function, stays."""
    return Path(path).absolute() if Path(path).exists() else path
