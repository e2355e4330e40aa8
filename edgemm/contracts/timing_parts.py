"""What timing a run's forms found out, as a report keeps it beside the measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemm.contracts.interval import Interval


@dataclass(frozen=True)
class Ratio:
    """Two forms timed side by side: how many times as long ``candidate`` takes as ``baseline``, with its 95% interval.

    Attributes:
        verdict: ``faster``, ``slower``, ``no difference shown``.
        disturbed: Whether one of the two was disturbed in too many rounds.
    """

    candidate: str
    baseline: str
    value: float
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    disturbed: bool = False


@dataclass(frozen=True)
class FormName:
    """Which form of what: the user's name for it, the target, the subject."""

    source: str = ""
    target: str | None = None
    subject: str = ""


@dataclass(frozen=True)
class Disturbance(FormName):
    """How far what else the box did spoiled a form's rounds.

    Attributes:
        rounds: That count.
        disturbed: Of these, those that were so each time they were tried.
        repeated: Turns done again.
        reasons: Reason -> how many turns it spoiled.
        flagged: Whether the form's figures are not to be trusted.
    """

    rounds: int = 0
    disturbed: int = 0
    repeated: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    flagged: bool = False


@dataclass(frozen=True)
class Seen:
    """What else the box did between two looks.

    Attributes:
        seconds: Between them.
        others: Share of the cores' time that other processes used, 0 to 1.
        waited: Share of the time in which our threads were ready to run and had no core, 0 to 1. None for a process with children: two
            that hand over to each other on one core wait for each other a fifth of the time, and nobody disturbed them.
        stolen: Share of the cores' time that the hypervisor gave to others.
        clock: Speed of the clock: MHz where the kernel tells, else rounds of a fixed loop a microsecond. Comparable within a run only.
        throttled: How often a core or the package was throttled.
        celsius: Hottest sensor.
    """

    seconds: float
    others: float | None = None
    waited: float | None = None
    stolen: float | None = None
    clock: float | None = None
    throttled: int | None = None
    celsius: float | None = None


@dataclass(frozen=True)
class TimedTurn(Seen):
    """One form's turn in one round, and what else the box did meanwhile.

    Attributes:
        round: Its number, from 0; ``launch``: which of the form's processes ran it.
        at_s: When it ended, since the start of the run.
        kept: False where it was disturbed and done again; ``reasons``: why it is not to be trusted.
    """

    candidate: str = ""
    round: int = 0
    launch: int = 0
    at_s: float = 0.0
    p50_ms: float = 0.0
    kept: bool = True
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pace:
    """At what pace forms ran: calls a second of each input, and form -> ``whole`` or in parts."""

    rates_hz: Mapping[str, float]
    how: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Hump:
    """Decisions that took one of the two ways through a gate, or all of them.

    Attributes:
        share: Of all decisions, 0 to 1.
        cpu_ms: Processor time of one, on average.
    """

    share: float
    p50_ms: float | None = None
    p95_ms: float | None = None
    mean_ms: float = 0.0
    cpu_ms: float = 0.0


@dataclass(frozen=True)
class Gated:
    """A bundle through its gates.

    Attributes:
        where: ``test rows``, or the name of a recording.
        skipped: Gated input -> share of the decisions in which its branch did not run.
        humps: ``skipped``, ``passed``, ``all``, and ``without gates``.
        apart: Share of the decisions that are others than without gates.
        lost: Output -> what the gates cost of it, in points, on rows whose truth is known.
        empty: Share that empty moments were given; None = as it is.
        run_cpu_s, run_cpu_without_s: Processor seconds of playing the recording, decoding and all.
    """

    candidate: str
    where: str
    decisions: int
    skipped: Mapping[str, float]
    humps: Mapping[str, Hump]
    apart: float = 0.0
    lost: Mapping[str, Interval] = field(default_factory=dict)
    empty: float | None = None
    run_cpu_s: float | None = None
    run_cpu_without_s: float | None = None

    def __str__(self) -> str:
        """In one line."""
        of = f", {self.empty:.0%} of the moments empty" if self.empty is not None else ""
        shares = ", ".join(f"{name} skipped in {share:.0%}" for name, share in self.skipped.items())
        ways = "; ".join(
            f"{word} p50 {hump.p50_ms:.3g}, p95 {hump.p95_ms:.3g}, mean {hump.mean_ms:.3g} ms"
            for word, hump in self.humps.items()
            if hump.p50_ms is not None and hump.p95_ms is not None
        )
        every, without = self.humps["all"].cpu_ms, self.humps["without gates"].cpu_ms
        cpu = f"processor time a decision {every:.3g} ms, without gates {without:.3g} ms ({every / max(without, 1e-9):.2f})"
        return f"{self.candidate}, {self.where}{of}: {shares}; {ways}; {cpu}; {self.apart:.2%} decide otherwise"


@dataclass(frozen=True)
class Throughput:
    """Samples a second of a form with so many samples a call and parallel streams; ``error`` says why there is no figure."""

    candidate: str
    batch: int
    streams: int
    per_s: float | None = None
    low: float | None = None
    high: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Peaks:
    """What a box can do at most: the best seen in a second or so of each; None where the runtime at hand cannot show it.

    Attributes:
        threads: With so many.
        gops: ``int8``, ``bf16``, ``f32`` -> 10^9 operations a second in a large matrix product; a multiply-accumulate counts as two.
        bandwidth_gbs: 10^9 bytes a second read and written by copying memory larger than the caches.
        layer_us: What one layer adds that has next to nothing to do.
        runtime: What it was measured with.
        disturbed: Why the figures may be too low, in words; such figures are not kept.
    """

    threads: int
    gops: Mapping[str, float | None]
    bandwidth_gbs: float
    layer_us: float | None
    runtime: str
    disturbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchLimit:
    """A branch against the box's peaks.

    Attributes:
        layers: How many.
        compute_us: Its multiply-accumulates at the best rate of the precisions it ran in.
        memory_us: Its weights read once from memory.
        launch_us: Its layers at what an empty one costs.
        of_limit: The larger of the first two as a share of its time, 0 to 1.
        reason: ``compute``, ``memory``, ``launch overhead``: the largest of the three.
    """

    branch: str
    time_us: float
    layers: int
    compute_us: float
    memory_us: float
    launch_us: float
    of_limit: float
    reason: str


@dataclass(frozen=True)
class WastefulLayer:
    """A layer that wastes time, why, and what it takes; ``share`` of all layers' time, 0 to 1."""

    layer: str
    kind: str
    kernel: str
    precision: str
    finding: str
    time_us: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class PrecisionChoice:
    """What a branch alone took in each precision, where a recipe says ``precision: auto``, and what it got."""

    ms: Mapping[str, Interval]
    choice: str
    reason: str
    branch: str = ""
    target: str = ""


@dataclass(frozen=True)
class FormTried:
    """An input's front-end in one form, alone on a target: its file, and its time in its fastest float type, or why it has none."""

    bytes: int
    ms: Interval | None = None
    precision: str = ""
    error: str = ""


@dataclass(frozen=True)
class FrontendChoice:
    """What each form of an input's front-end took on a target, and which one is in its graph."""

    input: str
    choice: str
    forms: Mapping[str, FormTried]
    target: str = ""


@dataclass(frozen=True)
class OptionsTried:
    """One combination of runtime options and what it showed. ``note`` says why it was not taken."""

    options: Mapping[str, Any]
    p50_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    precision_ran: str = ""
    note: str = ""
    target: str = ""
    taken: bool = False
