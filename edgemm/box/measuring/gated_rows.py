"""In the worker: rows, one at a time, through a bundle's gates and through all of its branches, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.box.bundle.deployment import deploy
from edgemm.box.bundle.opened import open_bundle
from edgemm.box.bundle.parts import Parts
from edgemm.box.measuring.answers import AnswerFiles
from edgemm.box.measuring.rows import Rows
from edgemm.contracts.dataset import Batch
from edgemm.contracts.gate import Gate
from edgemm.data.sureness import Sureness

Arrays = Mapping[str, np.ndarray]
WARM_ROWS = 10
TELL_S = 0.5  # how often progress is told


def run_gated_rows(
    progress: Callable[[Mapping[str, Any]], None], kept: Rows, *, bundle: str, target: str, data: str, card: dict[str, Any],
    card_path: str | None, limit: int | None, skip_bad_rows: bool, out: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the answers of both ways, ``<out>/gated`` and ``<out>/whole`` (the truth beside it), and ``times.npz``.

    The latter holds ``gated_ms``, ``gated_cpu_ms`` and the same of ``whole``, a number a row; ``skipped``, bool (rows, gates); ``gated``,
    their inputs; ``apart``, whether the two ways decide otherwise.
    """
    opened = open_bundle(bundle)
    served, gates = deploy(opened, target), opened.gates(target)
    assert served.split is not None  # the scheduler has looked
    dataset = kept.dataset(data, card, card_path, skip_bad_rows)
    files = {word: AnswerFiles(_folder(Path(out) / word)) for word in ("gated", "whole")}
    sureness, times = Sureness(opened.card), {key: list[Any]() for key in ("gated", "whole", "skipped", "apart")}
    told_s = time.monotonic()
    with Parts(served.split, served.open_part) as parts:
        way = _Way(parts, served.standins or {}, gates, sureness)
        for number, batch in enumerate(kept.batches(dataset, "test", 1, limit=limit)):
            for _ in range(WARM_ROWS if number == 0 else 0):
                way.gated(batch)
                way.whole(batch)
            answers: dict[str, Any] = {}
            for word in ("gated", "whole") if number % 2 else ("whole", "gated"):
                began, cpu = time.perf_counter(), time.process_time()
                answers[word] = getattr(way, word)(batch)
                times[word].append(((time.perf_counter() - began) * 1e3, (time.process_time() - cpu) * 1e3))
            gated, skipped = answers["gated"]
            whole = answers["whole"]
            files["gated"].append(gated, None)
            files["whole"].append(whole, batch.truth)
            times["skipped"].append([gate.run in skipped for gate in gates])
            times["apart"].append(bool(sureness.disagree(gated, whole)[0]))
            if time.monotonic() - told_s > TELL_S:
                told_s = time.monotonic()
                progress({"progress": number})
    for file in files.values():
        file.close()
    save(Path(out), times, [gate.run for gate in gates])
    return {"rows": len(times["apart"])}


def save(folder: Path, times: Mapping[str, Sequence[Any]], gated: Sequence[str], **more: Any) -> None:
    """``times.npz`` in ``folder``: wall and processor milliseconds of both ways, what was skipped, what decided otherwise."""
    both = {word: np.asarray(times[word], np.float64).reshape(-1, 2) for word in ("gated", "whole")}
    arrays = {f"{word}_{unit}": pairs[:, place] for word, pairs in both.items() for place, unit in enumerate(("ms", "cpu_ms"))}
    skipped = np.asarray(times["skipped"], bool).reshape(-1, len(gated))
    arrays |= {"skipped": skipped, "apart": np.asarray(times["apart"], bool), "gated": np.asarray(gated), **more}
    np.savez(folder / "times.npz", **arrays)  # type: ignore[arg-type]  # its stub takes the keyword allow_pickle for an array


class _Way:
    """One row through the gates, or through everything."""

    def __init__(self, parts: Parts, standins: Arrays, gates: Sequence[Gate], sureness: Sureness) -> None:
        self._parts, self._standins, self._gates, self._sureness = parts, standins, gates, sureness

    def whole(self, batch: Batch) -> dict[str, np.ndarray]:
        return self._answer({name: self._parts.embed(name, batch.inputs) for name in self._there(batch)}, batch)

    def gated(self, batch: Batch) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """The answer, and the inputs that were left out."""
        there, order = self._there(batch), [gate.run for gate in self._gates]
        present = {name: self._parts.embed(name, batch.inputs) for name in there if name not in order}
        for place, gate in enumerate(self._gates):
            if set(gate.after) <= present.keys():
                outputs = self._answer(present, batch)
                if self._sureness.of(gate.criterion, outputs)[0] >= gate.threshold:
                    return outputs, tuple(order[place:])
            if gate.run in there:
                present[gate.run] = self._parts.embed(gate.run, batch.inputs)
        return self._answer(present, batch), ()

    def _there(self, batch: Batch) -> list[str]:
        return [name for name in self._parts.cuts if name not in batch.present or batch.present[name].all()]

    def _answer(self, present: Mapping[str, Arrays], batch: Batch) -> dict[str, np.ndarray]:
        return self._parts.answer(present, self._standins, batch.inputs)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
