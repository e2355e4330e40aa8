"""Which part of the model the time goes to: a runtime's own layer times, gathered by branch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgemm.contracts.target import LayerRan, Session

MULTIPLIES = ("Conv", "FullyConnected", "MatMul", "Gemm", "RNN", "GRU", "LSTM", "MHA", "Attention")
"""Parts of the names by which runtimes call layers whose precision decides speed."""
FUSED = "Subgraph"  # OpenVINO's: whatever was fused, products or not
SEPARATORS = re.compile(r"[_/]")
WARM_RUNS, LEAST_RUNS, MOST_RUNS = 5, 10, 200  # the first run may take 100 times as long: kernels are generated in it


def steady_layers(session: Session, feed: Mapping[str, np.ndarray], *, seconds: float = 1.0) -> list[LayerRan]:
    """The layers with the times of a warm session; for one that was opened to time its layers and has not run yet.

    A runtime tells averages over all runs so far, the slow first ones among them. With average a after k runs and b after n, the runs
    between them took (n b - k a) / (n - k) each.

    Args:
        feed: One batch.
        seconds: About how long to run.
    """
    for _ in range(WARM_RUNS):
        session.run(feed)
    early = session.layers()
    begin, runs = time.perf_counter(), 0
    while runs < LEAST_RUNS or (runs < MOST_RUNS and time.perf_counter() - begin < seconds):
        session.run(feed)
        runs += 1
    return [_between(first, last, runs) for first, last in zip(early, session.layers(), strict=True)]


def _between(first: LayerRan, last: LayerRan, runs: int) -> LayerRan:
    if last.time_us is None:
        return last
    total = (WARM_RUNS + runs) * last.time_us - WARM_RUNS * (first.time_us or 0.0)  # a time below its resolution is told as none
    return replace(last, time_us=max(0.0, total / runs))


def latency_shares(layers: Sequence[LayerRan], owner: Mapping[str, str]) -> dict[str, float]:
    """Each branch's share of the layers' time, 0 to 1; together 1. Empty where the runtime told no times.

    Runtimes rename what they rewrite (``relu_1_nchwc``, ``fused node_linear``, ``node_Conv_3/WithoutBiases``): such a layer belongs to the
    longest known name its own begins with. One with a name of the runtime's making belongs to the branch of the layer before it.
    A layer made of several branches' nodes is shared equally between them.

    Args:
        layers: In execution order, as ``Session.layers`` tells.
        owner: Node or tensor name of the ONNX graph -> branch (``graph.branches.name_owners``).
    """
    times: dict[str, float] = {}
    for layer, branches in zip(layers, layer_owners(layers, owner), strict=True):
        for branch in branches:
            times[branch] = times.get(branch, 0.0) + (layer.time_us or 0.0) / len(branches)
    total = sum(times.values())
    return {branch: time / total for branch, time in times.items()} if total else {}


def layer_owners(layers: Sequence[LayerRan], owner: Mapping[str, str]) -> list[tuple[str, ...]]:
    """For each layer the branches that share it; those before the first one that could be told go with that one."""
    owners: list[tuple[str, ...]] = []
    last: tuple[str, ...] = ()
    for layer in layers:
        own_branches = [branch for name in layer.name.split(",") if (branch := _owner(name.strip(), owner))]
        last = tuple(dict.fromkeys(own_branches)) or last
        owners.append(last)
    first = next((branches for branches in owners if branches), ())
    return [branches or first for branches in owners]


def branch_precisions(layers: Sequence[LayerRan], owner: Mapping[str, str]) -> dict[str, str]:
    """What each branch really ran in: ``int8``, ``f32``, ``int8+f32``. By its layers that multiply, or else by its fused ones."""
    fused = _precisions((layer for layer in layers if layer.kind == FUSED), owner)
    words = fused | _precisions((layer for layer in layers if any(part in layer.kind for part in MULTIPLIES)), owner)
    return {branch: "+".join(sorted(precisions, key=lambda word: (word != "int8", word))) for branch, precisions in words.items()}


def _precisions(layers: Iterable[LayerRan], owner: Mapping[str, str]) -> dict[str, set[str]]:
    words: dict[str, set[str]] = {}
    for layer in layers:
        for name in layer.name.split(","):
            if (branch := _owner(name.strip(), owner)) and layer.precision:
                words.setdefault(branch, set()).add(layer.precision)
    return words


def _owner(name: str, owner: Mapping[str, str]) -> str | None:
    """The branch of the longest known name that ``name`` begins with, cut at a separator."""
    name = name.removeprefix("fused ")
    if name in owner:
        return owner[name]
    for cut in reversed([match.start() for match in SEPARATORS.finditer(name)]):
        if name[:cut] in owner:
            return owner[name[:cut]]
    return None
