"""What timing showed of every form, as a report takes it: plain values that a cache can keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemm.box.measuring import disturbed
from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.measurements import about, drawn, measurements, ratios, size_bytes
from edgemm.contracts.report import Measurement
from edgemm.contracts.target import LayerRan
from edgemm.contracts.timing_parts import Disturbance, FormName, Ratio, TimedTurn


@dataclass(frozen=True)
class Shown:
    """What one form showed.

    Attributes:
        precision: What really ran.
        samples_ms: Some calls of every round, for drawing.
        disturbance: How many of its rounds were disturbed and why, and whose rounds they are; None where nothing was timed.
    """

    measurements: tuple[Measurement, ...]
    precision: str
    layers: tuple[LayerRan, ...] = ()
    samples_ms: tuple[float, ...] = ()
    disturbance: Disturbance | None = None


@dataclass(frozen=True)
class Timed:
    """What all forms of a run showed.

    Attributes:
        forms: Name of a candidate -> what it showed.
        ratios: Who was timed against whom, as ``measurements.ratios`` has it.
        warnings: What disturbances mean for the reader.
        timeline: Every turn in the order it was taken.
    """

    forms: Mapping[str, Shown]
    ratios: tuple[Ratio, ...] = ()
    warnings: tuple[str, ...] = ()
    timeline: tuple[TimedTurn, ...] = ()

    def measurements(self) -> list[Measurement]:
        """Of all forms."""
        return [measurement for shown in self.forms.values() for measurement in shown.measurements]

    def precisions(self) -> dict[str, str]:
        """Name of a candidate -> what really ran."""
        return {name: shown.precision for name, shown in self.forms.items()}


def shown_by(candidates: Sequence[Candidate], timings: Mapping[str, Timing]) -> Timed:
    """What the candidates' timings show; those that failed are left out."""
    able = [candidate for candidate in candidates if timings[candidate.name].error is None]
    summary = disturbed.summary(timings)
    forms = {
        candidate.name: Shown(
            tuple(measurements(candidate, timings[candidate.name])),
            timings[candidate.name].precision_ran,
            timings[candidate.name].layers,
            tuple(drawn(timings[candidate.name])),
            Disturbance(**summary[candidate.name], **vars(identity(candidate))),
        )
        for candidate in able
    }
    return Timed(forms, tuple(ratios(able, timings)), tuple(disturbed.notes(timings)), tuple(disturbed.timeline(timings)))


def untimed(candidate: Candidate) -> Shown:
    """Of a form that cannot run here: its size, and the precision that its stand-in computes."""
    with candidate.deployment.open() as session:
        precision = session.precision()
    size = Measurement("size_mib", size_bytes(candidate.model) / 2**20, "MiB")
    return Shown(tuple(about(candidate, precision, [size])), precision)


def identity(candidate: Candidate) -> FormName:
    """How a report names a form."""
    return FormName(candidate.source or candidate.name, candidate.target, candidate.subject)
