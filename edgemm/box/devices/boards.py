"""Profiles of boards: what they can do at most, and how much of that a model reaches there. The figures stand in ``boards.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgemm.errors import EdgemmError, nearest

FILE = Path(__file__).with_name("boards.yaml")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name, title: As a user names it, and as its maker does.
        family: Boards of one family share what a fit says.
        gops: Precision -> 10^9 operations a second in dense matrices, without DLA; a multiply-accumulate counts as two.
        bandwidth_gbs: Of its memory, 10^9 bytes a second.
        memory_gib: Processor and GPU share it.
        watts: Its power modes; with the highest clocks unless the name says otherwise.
        reach: Part of the peak that a small batch reaches: for each precision, for ``weights`` and for other ``values`` in memory.
        layer_us: What a layer costs however small it is.
        low, high: Times the estimate: where 90 of 100 measured times are expected.
        calibrated: By what.
        smallest_gop: 10^9 operations of the smallest model of the fit.
        source: Letters that ``boards.yaml`` explains.
    """

    name: str
    title: str
    family: str
    gops: Mapping[str, float]
    bandwidth_gbs: float
    memory_gib: float
    watts: tuple[int, ...]
    reach: Mapping[str, float]
    layer_us: float
    low: float
    high: float
    calibrated: str
    smallest_gop: float
    source: str


def known() -> list[str]:
    """Names of all boards."""
    return sorted(_file()["boards"])


def load(name: str) -> Board:
    """The board of that name.

    Raises:
        EdgemmError: There is none; names the nearest one.
    """
    file = _file()
    if name not in file["boards"]:
        raise EdgemmError(f"there is no board '{name}'.", fix=nearest(name, known()))
    facts = file["boards"][name]
    family = file["families"][facts["family"]]
    return Board(
        name=name,
        title=facts["title"],
        family=facts["family"],
        gops=_gops(facts, family["ops"]),
        bandwidth_gbs=facts["bandwidth_gbs"],
        memory_gib=facts["memory_gib"],
        watts=tuple(facts["watts"]),
        reach=family["reach"],
        layer_us=family["layer_us"],
        low=family["low"],
        high=family["high"],
        calibrated=family["calibrated"],
        smallest_gop=family["smallest_gop"],
        source=facts["source"],
    )


def _gops(facts: Mapping[str, Any], ops: Mapping[str, float]) -> dict[str, float]:
    if "sms" in facts:
        return {kind: facts["sms"] * facts["gpu_mhz"] * ops[kind] / 1e3 for kind in PRECISIONS}
    return {kind: sum(core["count"] * core["ghz"] * core[kind] for core in facts["cores"]) for kind in PRECISIONS}


@functools.cache
def _file() -> Mapping[str, Any]:
    plain: Mapping[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return plain
