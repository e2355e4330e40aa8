"""A model taken apart: what each branch holds, costs and runs in. Shared by ``inspect`` and the report of ``compress``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemm.box.measuring.layers import branch_precisions, latency_shares, steady_layers
from edgemm.contracts.card import Card
from edgemm.contracts.frontend_ops import COST_ROW
from edgemm.contracts.modality import input_specs
from edgemm.contracts.specs import BATCH
from edgemm.contracts.target import Session


@dataclass(frozen=True)
class BranchRow:
    """One branch of a model, or one input's front-end.

    Attributes:
        branch: ``<input>``, ``fusion``, ``head:<output>``, or ``frontend:<input>``.
        modality: Of an input's branch, where a card tells.
        parameters, macs, nodes: As ``graph.costs.Cost``.
        size_bytes: ``fp32``, ``fp16``, ``int8`` -> bytes of its parameters; of a front-end its constants.
        stored_bytes: The same in the file looked at.
        latency_share: Part of the layers' time, 0 to 1; None where nothing was run.
        precision: What its multiplying layers ran in; "" where nothing was run.
    """

    branch: str
    modality: str | None
    parameters: int
    macs: int
    nodes: int
    size_bytes: Mapping[str, int]
    stored_bytes: int
    latency_share: float | None = None
    precision: str = ""


def take_apart(
    onnx: Path, card: Card | None, session: Session | None = None, feed: Mapping[str, np.ndarray] | None = None
) -> list[BranchRow]:
    """A row for each branch of an ONNX file, in the order inputs (each after its front-end), fusion, heads.

    Args:
        session: The same file opened on a target so that its layers are timed (OpenVINO: ``profile="on"``), not run yet.
        feed: One batch for it.
    """
    from edgemm.graph import files  # onnx: only where a model is really looked at
    from edgemm.graph.branches import find_branches, name_owners
    from edgemm.graph.costs import branch_costs

    model = files.load(onnx)
    branches = find_branches(model, card)
    sizes: dict[str, tuple[int | str, ...]] = {name: array.shape for name, array in feed.items()} if feed else {}
    if card and not feed:
        sizes = {spec.name: tuple(1 if size == BATCH else size for size in spec.shape) for spec in input_specs(card)}
    costs = branch_costs(model, branches, sizes)
    shares: Mapping[str, float] = {}
    precisions: Mapping[str, str] = {}
    if session is not None and feed is not None:
        layers, owner = steady_layers(session, feed), name_owners(model, branches)
        shares, precisions = latency_shares(layers, owner), branch_precisions(layers, owner)
    return [
        BranchRow(
            branch=name,
            modality=branches.modalities.get(name.removeprefix(COST_ROW)),
            parameters=costs[name].parameters,
            macs=costs[name].macs,
            nodes=costs[name].nodes,
            size_bytes=dict(costs[name].size_bytes),
            stored_bytes=costs[name].stored_bytes,
            latency_share=shares.get(name, 0.0) if shares else None,
            precision=_ran_in(name, precisions),
        )
        for name in branches.rows()
    ]


def _ran_in(row: str, precisions: Mapping[str, str]) -> str:
    """A front-end is never quantized: the bytes of a picture are its own type there."""
    precision = precisions.get(row, "")
    return "" if row.startswith(COST_ROW) and precision == "int8" else precision
