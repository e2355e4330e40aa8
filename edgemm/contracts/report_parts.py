"""What a report holds beside measurements and budgets: each part with a name and a shape, optional all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemm.contracts import plain_values
from edgemm.contracts import timing_parts as timing
from edgemm.contracts.detection_parts import Detected
from edgemm.contracts.gate import GateFound
from edgemm.contracts.interval import Interval
from edgemm.contracts.judged_parts import AugmentedInput, Judged, Reliability
from edgemm.contracts.picture_parts import SamplePicture
from edgemm.contracts.rung import Rung
from edgemm.contracts.search_parts import Searched
from edgemm.contracts.sensitivity import Sensitivity
from edgemm.contracts.target import LayerRan


@dataclass(frozen=True)
class StageRan:
    """One stage of a run; ``reused`` = taken from the cache."""

    name: str
    seconds: float = 0.0
    text: str = ""
    reused: bool = False


@dataclass(frozen=True)
class Confusion:
    """Counts of an output's answers, a row for each true label; ``before`` is the original's, where it is known."""

    labels: Sequence[str]
    after: Sequence[Sequence[int]] = ()
    before: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class AppliedStep:
    """A torch step of the recipe, with what it found out: plain values, whatever they are."""

    step: str
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BranchSummary:
    """What a branch holds, costs and runs in.

    Attributes:
        parameters, macs: A number, or ``before`` and ``after`` compression.
        latency_share: Part of the layers' time, 0 to 1.
        size_mib: ``before`` and ``after``, or one entry a precision (``fp32``, ``fp16``, ``int8``).
        sqnr_db: What quantizing cost where it ends.
    """

    branch: str
    precision: str = ""
    parameters: float | Mapping[str, float] | None = None
    macs: float | Mapping[str, float] | None = None
    latency_share: float | None = None
    size_mib: Mapping[str, float] = field(default_factory=dict)
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Loss(Interval):
    """What an output lost against the original, and what it may lose (None: anything)."""

    unit: str = ""
    n: int | None = None
    limit: float | None = None
    missed: bool = False


@dataclass(frozen=True)
class Attempt:
    """One thing that was tried to keep the accuracy budgets of a target, and what came of it."""

    step: str
    decision: str = ""
    target: str = ""
    outputs: Mapping[str, Loss] = field(default_factory=dict)
    size_mib: float | None = None


@dataclass(frozen=True)
class Contribution:
    """What an input adds to an output, before and after compression; ``deaf``: the model no longer listens to it."""

    input: str
    output: str
    target: str
    before: Interval
    after: Interval
    change: Interval
    unit: str = ""
    deaf: bool = False


@dataclass(frozen=True)
class Share:
    """What an input adds to the chance of what is decided, on rows of one label: its mean Shapley share, in points of chance.

    Attributes:
        label: What is true of the rows.
        before, after: Of the original, and of the compressed model on ``target``.
        n: How many rows.
    """

    input: str
    output: str
    target: str
    label: str
    before: float
    after: float
    n: int


@dataclass(frozen=True)
class Listening:
    """Which modality matters; the measurements of it have ``modalities`` set.

    Attributes:
        rows, of: Test rows that were scored, of how many.
        where: Target -> the form that was scored.
        shares: Who said what, label by label, where every subset of inputs was scored.
    """

    inputs: Sequence[str]
    rows: int = 0
    of: int = 0
    where: Mapping[str, str] = field(default_factory=dict)
    contributions: Sequence[Contribution] = ()
    shares: Sequence[Share] = ()


@dataclass(frozen=True)
class Calibration:
    """One form of a head on the test rows.

    Attributes:
        output: The head.
        form: Who answers: a member alone, the joint, and whether compressed.
        rule: How its members were joined.
    """

    output: str
    form: str
    known: Reliability
    rule: str = ""


@dataclass(frozen=True)
class BoxState:
    """What another machine went through, as ``devices.memory``, ``devices.thermals`` and the bundle's checks say it."""

    memory: Mapping[str, Any]
    thermals: Mapping[str, Any]
    verified: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class RemoteRun:
    """How a measurement on another machine went."""

    connection_losses: int


@dataclass(frozen=True)
class Details:
    """The parts of a report beside its measurements and budgets; what a run did not look at is empty.

    Attributes:
        title, card, recipe: Names.
        notes: What a reader must know; ``warnings``, among them, what disturbances mean for the reader.
        failures: Candidates of which nothing could be measured; ``not_measured``: forms that failed.
        energy: What the meter covers, or why there is none.
        steps: The stages of the run, in order.
        applied: The torch steps of the recipe, in order.
        latency_samples_ms: A variant's label, or any other words -> milliseconds, in the order to draw them.
        ratios: Who was timed against whom.
        disturbances: Form -> how far it was disturbed; ``timeline``: every turn in the order it was taken.
        throughput: A row a combination.
        audit: The costliest first.
        layers: Of the bundle.
        confusion: Output -> its matrices.
        detected: Output -> what its boxes come to.
        pictures: Output -> some of the test rows' pictures, with what was answered.
        judged: Output with labels -> how well each of them is told.
        augmented: Inputs whose rows a training changed.
        curves: ``<chart>/<line>`` such as ``loss/train``, ``loss/val`` -> ``[[epoch, value], ...]``.
        parity: The ladder's rungs from the original to the target.
        guard: What was tried to keep accuracy, in order.
        estimate: ``estimate.Estimate.to_dict()``: what a board would take.
        calibration: Of a model of joined members, before and after compression.
        gates: Branches that run only where they can change the answer; ``gated``: what that saves.
        files: Name in the bundle -> bytes.
        search: What ``search`` tried, and the best of it.
    """

    title: str = ""
    card: str = ""
    recipe: str = ""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    failures: Sequence[str] = ()
    not_measured: Sequence[timing.FormName] = ()
    energy: str = ""
    steps: Sequence[StageRan] = ()
    applied: Sequence[AppliedStep] = ()
    branches: Sequence[BranchSummary] = ()
    latency_samples_ms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    ratios: Sequence[timing.Ratio] = ()
    disturbances: Mapping[str, timing.Disturbance] = field(default_factory=dict)
    timeline: Sequence[timing.TimedTurn] = ()
    pace: timing.Pace | None = None
    throughput: Sequence[timing.Throughput] = ()
    roofline: Sequence[timing.BranchLimit] = ()
    audit: Sequence[timing.WastefulLayer] = ()
    peaks: timing.Peaks | None = None
    layers: Sequence[LayerRan] = ()
    confusion: Mapping[str, Confusion] = field(default_factory=dict)
    detected: Mapping[str, Detected] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[SamplePicture]] = field(default_factory=dict)
    judged: Mapping[str, Judged] = field(default_factory=dict)
    augmented: Sequence[AugmentedInput] = ()
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    parity: Sequence[Rung] = ()
    precision: Sequence[timing.PrecisionChoice] = ()
    frontends: Sequence[timing.FrontendChoice] = ()
    runtime_options: Sequence[timing.OptionsTried] = ()
    guard: Sequence[Attempt] = ()
    sensitivity: Sensitivity | None = None
    estimate: Mapping[str, Any] = field(default_factory=dict)
    ledger: Listening | None = None
    calibration: Sequence[Calibration] = ()
    gates: Sequence[GateFound] = ()
    gated: Sequence[timing.Gated] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    box: BoxState | None = None
    remote: RemoteRun | None = None
    search: Searched | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``report.json``; empty parts are left out."""
        return {name: value for name, value in plain_values.plain(self).items() if value}

    @classmethod
    def of_dict(cls, plain: Mapping[str, Any]) -> Details:
        """Back from ``to_dict``, and from what older versions wrote; parts that this version does not know are left out."""
        return plain_values.read(cls, {name: value for name, value in plain.items() if value})
