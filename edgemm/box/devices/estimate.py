"""How long a model will take on a board that is not at hand: a roofline, layer by layer, with the fit's own interval.

A layer takes the longer of computing (operations by what of the peak rate is reached) and moving (weights and values by what of the
bandwidth is reached), and a fixed time for being a layer at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgemm.box.devices.boards import PRECISIONS, Board
from edgemm.contracts.layer_work import LayerWork

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
BOUNDS = ("compute", "memory", "layers")
BEYOND = 2.0  # the interval's ends times and by this, for a model smaller than all of the fit


@dataclass(frozen=True)
class EstimatedLayers:
    """One branch at one precision.

    Attributes:
        latency_ms: The estimate; ``low_ms`` and ``high_ms`` hold 90 of 100 measured times, as far as the fit tells.
        bound: What takes most of it: ``compute``, ``memory``, or ``layers`` (their number).
    """

    branch: str
    precision: str
    latency_ms: float
    low_ms: float
    high_ms: float
    bound: str

    def words(self) -> str:
        """The estimate and its interval."""
        return f"{_short(self.latency_ms)} ({_short(self.low_ms)} to {_short(self.high_ms)})"


@dataclass(frozen=True)
class Estimate:
    """All branches of a model on one board; the last row of each precision is the ``total``.

    Attributes:
        beyond: Whether the model is smaller than all of the fit, so that the intervals were widened.
    """

    board: Board
    rows: tuple[EstimatedLayers, ...]
    beyond: bool = False

    def total(self, precision: str) -> EstimatedLayers:
        return next(row for row in self.rows if row.branch == "total" and row.precision == precision)

    def to_dict(self) -> dict[str, Any]:
        return {"board": asdict(self.board), "beyond": self.beyond, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        board, names = self.board, list(dict.fromkeys(row.branch for row in self.rows))
        cells = {(row.branch, row.precision): row.words() for row in self.rows}
        bounds = {row.branch: row.bound for row in self.rows if row.precision == PRECISIONS[-1]}
        table = [["branch", *(f"{kind} ms" for kind in PRECISIONS), "int8 is bound by"]]
        table += [[name, *(cells[name, kind] for kind in PRECISIONS), bounds[name]] for name in names]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in table]
        wide = f"; smaller than the {board.smallest_gop:g} GOP of its smallest model, so the intervals are wide" if self.beyond else ""
        return "\n".join([f"estimate for {board.title}, one sample ({board.calibrated}{wide}; nothing was run):", *lines])


def estimate(layers: Sequence[LayerWork], board: Board) -> Estimate:
    """The latency of each branch and of all together, at each precision."""
    beyond = 2e-9 * sum(layer.macs for layer in layers) < board.smallest_gop
    ends = (board.low / BEYOND, board.high * BEYOND) if beyond else (board.low, board.high)
    own = {name: [layer for layer in layers if layer.branch == name] for name in dict.fromkeys(layer.branch for layer in layers)}
    rows = [_row(name, precision, some, board, ends) for precision in PRECISIONS for name, some in (*own.items(), ("total", list(layers)))]
    return Estimate(board, tuple(rows), beyond)


def latency_ms(layers: Iterable[LayerWork], precision: str, board: Board) -> float:
    """The estimate of ``layers`` one after the other."""
    return sum(max(_compute_ms(layer, precision, board), _memory_ms(layer, precision, board)) + _start_ms(layer, board) for layer in layers)


def _row(branch: str, precision: str, layers: Sequence[LayerWork], board: Board, ends: tuple[float, float]) -> EstimatedLayers:
    by = dict.fromkeys(BOUNDS, 0.0)
    for layer in layers:
        compute, memory = _compute_ms(layer, precision, board), _memory_ms(layer, precision, board)
        by["compute" if compute >= memory else "memory"] += max(compute, memory)
        by["layers"] += _start_ms(layer, board)
    total = sum(by.values())
    return EstimatedLayers(branch, precision, total, ends[0] * total, ends[1] * total, max(by, key=lambda key: by[key]))


def _runs_in(layer: LayerWork, precision: str) -> str:
    return "fp16" if precision == "int8" and not layer.quantizable else precision


def _compute_ms(layer: LayerWork, precision: str, board: Board) -> float:
    kind = _runs_in(layer, precision)
    return 2 * layer.macs / (board.reach[kind] * board.gops[kind] * 1e6)


def _memory_ms(layer: LayerWork, precision: str, board: Board) -> float:
    """Weights stream; the values between layers come in pieces and reach less of the bandwidth."""
    size, rate = BYTES[_runs_in(layer, precision)], board.bandwidth_gbs * 1e6
    return size * (layer.weights / (board.reach["weights"] * rate) + layer.values / (board.reach["values"] * rate))


def _start_ms(layer: LayerWork, board: Board) -> float:
    return layer.launches * board.layer_us / 1e3


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"
