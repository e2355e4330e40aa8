"""What holds for every input, good or bad, and the search for one for which it does not."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from tests.fuzz import good, mutations
from tests.fuzz.worker import Worker

KINDS = {
    "card": ("card", 24), "recipe": ("recipe", 22), "manifest": ("manifest", 22), "run": ("run", 14), "bundle": ("bundle", 5),
    "sealed": ("bundle", 8), "onnx": ("onnx", 4), "played": ("run", 0.5), "onnx_way": ("onnx", 0.3), "whole_way": ("onnx", 0.2),
}  # fmt: skip
"""Kind of input -> where its good ones lie, and its share of the examples, in percent."""
ENTRY = {"sealed": "bundle"}
LOST = "verify found nothing wrong with a damaged bundle"


@dataclass
class Tally:
    """What came of the examples: kind -> ``accepted`` or error class -> how many; what must not be -> the first such example."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)


class Fuzzing:
    """Good inputs, a scratch folder and a worker."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.good, self.scratch, self.worker = folder / "good", folder / "input", worker
        good.write(self.good)

    def sources(self, kind: str) -> list[Path]:
        return [path for path in sorted((self.good / KINDS[kind][0]).iterdir()) if kind != "sealed" or path.name == "folder"]

    def good_outcome(self, kind: str, source: Path) -> dict[str, Any]:
        mutations.copied(source, self.scratch)
        return self.worker.run(ENTRY.get(kind, kind), self.scratch)

    def outcome(self, kind: str, data: st.DataObject) -> tuple[str, dict[str, Any]]:
        """What is drawn, in words, and what comes of it."""
        source = data.draw(st.sampled_from(self.sources(kind)))
        mutations.copied(source, self.scratch)
        words = f"{kind} {source.name}: {mutations.mutated(data.draw, kind, self.scratch)}"
        is_same = kind == "bundle" and _contents(source) == _contents(self.scratch)
        outcome = self.worker.run(ENTRY.get(kind, kind), self.scratch)
        if kind == "bundle" and outcome["code"] == 0 and not is_same:
            outcome["findings"].append(LOST)
        return words, outcome


def _contents(folder: Path) -> dict[str, bytes | str]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else "no file"
        for path in folder.rglob("*") if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    }  # fmt: skip


@contextmanager
def fuzzing() -> Iterator[Fuzzing]:
    with tempfile.TemporaryDirectory(prefix="edgemm-fuzz-") as folder, Worker(Path(folder) / "cache") as worker:
        yield Fuzzing(Path(folder), worker)


def check(fuzz: Fuzzing, kind: str, examples: int) -> None:
    """Raises AssertionError with the simplest input for which something does not hold; the same examples every time."""

    def holds(data: st.DataObject) -> None:
        words, outcome = fuzz.outcome(kind, data)
        note(f"{words}\n{outcome['text']}")
        assert not outcome["findings"], f"{words}: {outcome['findings']}"

    _over(holds, examples, derandomize=True)


def collected(kind: str, examples: int, number: int) -> Tally:
    """What comes of as many other examples as asked for; what does not hold once for each place in edgemm.

    Args:
        number: Seed.
    """
    tally = Tally()
    counts = tally.counts.setdefault(kind, Counter())

    def counted(data: st.DataObject) -> None:
        words, outcome = fuzz.outcome(kind, data)
        counts[outcome["error"] or "accepted"] += 1
        for finding in outcome["findings"]:
            signature = f"{kind}: {finding} {outcome['error']} {outcome['place']}"
            example = f"{words}\n{outcome['text']}"
            tally.findings[signature] = min(tally.findings.get(signature, example), example, key=lambda text: len(text.split("\n")[0]))

    with fuzzing() as fuzz:
        _over(seed(number)(counted), examples, phases=[Phase.generate])
    return tally


def _over(holds: Callable[[st.DataObject], None], examples: int, **options: Any) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]
    settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks, **options)(given(st.data())(holds))()
