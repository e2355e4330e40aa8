"""From what the scheduler saw to the measurements of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.disturbed import is_disturbed
from edgemm.box.measuring.statistics import by_launch, ratio
from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.contracts.probe import Probe
from edgemm.contracts.report import Measurement
from edgemm.contracts.target import describe
from edgemm.contracts.timing_parts import Ratio

ALONE = frozenset({"compiled", "foreign", "original"})
DRAWN_SAMPLES = 400  # latency samples of each candidate that the page draws


def measurements(candidate: Candidate, timing: Timing) -> list[Measurement]:
    """Everything one timed candidate showed: latency, load, first call, cold start, memory, size.

    Raises:
        MeasureError: It could not be measured.
    """
    timing.require()
    samples = {**timing.samples, "latency": by_launch(timing.samples_ms, timing.launches)}
    measured = [m for name, values in samples.items() for m in plugins.load(Probe, name).summarise(values)]
    count = max(1, len(timing.cold_start_ms))
    measured += [Measurement("load_ms", timing.load_ms, "ms", n=count), Measurement("first_ms", timing.first_ms, "ms", n=count)]
    if timing.cold_start_ms:
        measured.append(Measurement("cold_start_ms", median(timing.cold_start_ms), "ms", n=len(timing.cold_start_ms)))
    if not candidate.is_command and (size := size_bytes(candidate.model)):  # a card without weights has none to say
        measured.append(Measurement("size_mib", size / 2**20, "MiB"))
    return about(candidate, timing.precision_ran, measured)


def about(candidate: Candidate, precision_ran: str, found: Sequence[Measurement]) -> list[Measurement]:
    """The same measurements, saying what they are about."""
    return [
        replace(
            measurement,
            subject=candidate.subject,
            candidate=candidate.source or candidate.name,
            target=candidate.target,
            precision_asked=candidate.precision_asked,
            precision_ran=precision_ran or None,
        )
        for measurement in found
    ]


def size_bytes(model: Path) -> int:
    """What the target loads: a model's file with those beside it, the weights of a card, any other file or folder whole."""
    if model.suffix in (".yaml", ".yml"):
        card = cards.load(model)
        path = card.weights_path or card.model_path
        if path is None or path.is_file():
            return path.stat().st_size if path else 0
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))  # a Hugging Face folder
    face = describe(model)
    if face is not None:
        return model.stat().st_size + sum((model.parent / name).stat().st_size for name in face.external)
    files = [model] if model.is_file() else model.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def ratios(measured: Sequence[Candidate], timings: Mapping[str, Timing]) -> Iterator[Ratio]:
    """Each form against the float and the default form on its target, and against the first candidate's same form.

    Forms that the first candidate has no like of (a command, torch compiled, another runtime's INT8) are held against its own.
    """
    first = [row for row in measured if row.source == measured[0].source]
    main = next((row for row in first if row.subject == "bundle"), first[0] if first else None)
    runtimes = {row.target for row in first}
    for row in measured:
        for other in measured:
            unlike = {row.subject, other.subject} & ALONE or (row.subject == "bundle" and row.target not in runtimes)
            lonely = other is main and unlike and row.source != other.source
            plainer = row.target == other.target and row.subject != "float" and other.subject in ("float", "default")
            same_form = (row.subject, row.target) == (other.subject, other.target) and other.source == measured[0].source != row.source
            if row is other or not (plainer or same_form or lonely):
                continue
            ours, theirs = timings[row.name], timings[other.name]
            quotient = ratio(ours.samples_ms, theirs.samples_ms, launches=ours.launches)
            spoiled = is_disturbed(ours) or is_disturbed(theirs)
            yield Ratio(row.name, other.name, quotient.value, quotient.low, quotient.high, quotient.verdict, spoiled)


def drawn(timing: Timing) -> list[float]:
    """Some samples of every round, so that the drawing shows the whole run."""
    share = max(1, DRAWN_SAMPLES // len(timing.samples_ms))
    return [round(float(ms), 5) for samples in timing.samples_ms for ms in samples[:share]]
