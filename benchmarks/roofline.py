"""How good the estimates of `edgemm inspect --device` are: every published time beside its estimate, and the fit behind them.

    python benchmarks/roofline.py          # the table, and the errors
    python benchmarks/roofline.py --fit    # fit anew: the figures for `families` in edgemm/box/devices/boards.yaml

The fit is judged on what it has not seen: each board (Orin) or model (Thor) is left out once. Needs scipy for --fit.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from edgemm.box.devices import boards
from edgemm.box.devices.boards import PRECISIONS, Board
from edgemm.box.devices.estimate import latency_ms
from edgemm.contracts.layer_work import LayerWork

PUBLISHED = Path(__file__).with_name("roofline_published.yaml")
FITTED = ("fp32", "fp16", "int8", "values")
STARTS = ((-1, -1, -1, -0.4, 2), (-1.5, -1.5, -1.5, -0.4, 2.5), (-1.2, -1, -1.2, -1, 2.7))  # logarithms of reaches and of layer_us


@dataclass(frozen=True)
class Time:
    """One published time."""

    board: str
    model: str
    precision: str
    measured_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fit", action="store_true", help="fit anew, with each board or model left out once")
    wanted = parser.parse_args()
    times = list(published("times_ms"))
    print(f"{'board':22}{'model':9}{'':6}{'measured':>9}{'estimate':>9}{'error':>7}")
    for time in (*times, *published("unseen_ms")):
        guess = estimated(time, boards.load(time.board))
        off = 100 * (guess / time.measured_ms - 1)
        print(f"{time.board:22}{time.model:9}{time.precision:6}{time.measured_ms:9.2f}{guess:9.2f}{off:6.0f}%")
    for family in ("orin", "thor"):
        own = [time for time in times if boards.load(time.board).family == family]
        off, most = median(errors(own)), float(np.quantile(errors(own), 0.9))
        print(f"{family}: median error {100 * off:.1f}%, nine of ten below {100 * most:.1f}%")
        if wanted.fit:
            _fit(family, own, "board" if family == "orin" else "model")


def published(key: str) -> Iterator[Time]:
    """``times_ms`` that the fit has seen, or ``unseen_ms``."""
    for board, models in _file()[key].items():
        for model, row in models.items():
            yield from (Time(board, model, kind, value) for kind, value in zip(PRECISIONS, row, strict=True) if value)


def estimated(time: Time, board: Board) -> float:
    """The estimate for a published time. A published model is known as a whole, so all its layers are alike."""
    facts = _file()["models"][time.model]
    count = facts["layers"]
    macs, weights, values = (int(facts[key] * unit / count) for key, unit in (("gop", 5e8), ("parameters_m", 1e6), ("values_m", 1e6)))
    one = LayerWork("all", macs, weights, values, quantizable=True)
    return count * latency_ms([one], time.precision, board)


def errors(times: Sequence[Time]) -> list[float]:
    """How far each estimate is from its time, as a part of it."""
    return [abs(estimated(time, boards.load(time.board)) / time.measured_ms - 1) for time in times]


def _fit(family: str, times: Sequence[Time], left_out: str) -> None:
    shown = _fitted(times)
    print(f"  fit: {dict(zip((*FITTED, 'layer_us'), (round(float(value), 4) for value in shown), strict=True))}")
    ratios = []
    for group in sorted({getattr(time, left_out) for time in times}):
        found = _fitted([time for time in times if getattr(time, left_out) != group])
        ratios += [time.measured_ms / estimated(time, _with(time.board, found)) for time in times if getattr(time, left_out) == group]
    low, high = np.quantile(ratios, [0.05, 0.95])
    off = median(abs(1 / ratio - 1) for ratio in ratios)
    print(f"  each {left_out} left out once: median error {100 * off:.1f}%, measured / estimated {low:.2f} to {high:.2f} (90%)")


def _fitted(times: Sequence[Time]) -> np.ndarray:
    from scipy.optimize import minimize

    def loss(logarithms: np.ndarray) -> float:
        found = np.exp(logarithms)
        return float(np.mean([abs(np.log(estimated(time, _with(time.board, found)) / time.measured_ms)) for time in times]))

    tries = [minimize(loss, start, method="Nelder-Mead", options={"maxiter": 4000, "maxfev": 4000}) for start in STARTS]
    best: np.ndarray = np.exp(min(tries, key=lambda found: found.fun).x)
    return best


def _with(name: str, found: np.ndarray) -> Board:
    board = boards.load(name)
    return replace(board, reach={**board.reach, **dict(zip(FITTED, found, strict=False))}, layer_us=float(found[-1]))


@functools.cache
def _file() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
