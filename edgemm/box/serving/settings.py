"""``run.yaml``: what feeds a bundle, how it decides, where decisions go. ``reading`` reads and checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgemm.box.serving.tracking.settings import LineSettings, TrackSettings, ZoneSettings
from edgemm.contracts.card import Card
from edgemm.contracts.modality import of
from edgemm.contracts.stream import Texts

SOURCES, SINKS = "sources", "sinks"
PER_CLASS = ("threshold", "release", "debounce", "cool_down_s")
"""What a class may have of its own."""
THRESHOLD = 0.6
"""Where neither settings nor bundle say one."""


@dataclass(frozen=True)
class InputSettings:
    """How an input is served.

    Attributes:
        rate_hz: Most runs of its branch a second; None = as fast as decisions are taken.
        stale_s: What is older counts as missing; None = 3 periods of its rate, at least 2 s (a text: never).
        value: A text or numbers that never change; its branch runs once.
        precision: ``fp32`` runs this branch in float; None = as compressed.
        target: Another runtime for this branch alone.
    """

    rate_hz: float | None = None
    stale_s: float | None = None
    value: str | float | list[float] | None = None
    precision: Literal["int8", "fp32"] | None = None
    target: str | None = None


@dataclass(frozen=True)
class DecisionSettings:
    """When an output's class is on.

    Attributes:
        threshold: Score from which a class counts as seen (0 to 1; an embedding: -1 to 1); None = as fitted when the bundle was made, else
            0.6.
        release: Score below which it counts as gone; None = 0.1 below the threshold.
        debounce: Decisions in a row that must agree before a class goes on or off.
        cool_down_s: After an event of a class no other of the same class for so long.
        quiet: Classes that are never an event, such as "nothing".
        classes: Class -> its own threshold, release, debounce, cool_down_s.
        change: A number (regression) is told again when it moved by so much; None = 1% of its value.
        gallery: Of an output of task embedding: the file of ``edgemm index`` whose names its vector is held against, by cosine.
        words: Of an output of task words, where the bundle holds the text tower: a file of other words than it was made with.
    """

    threshold: float | None = None
    release: float | None = None
    debounce: int = 2
    cool_down_s: float = 10.0
    quiet: list[str] = field(default_factory=list)
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    change: float | None = None
    gallery: str | None = None
    words: str | None = None


@dataclass(frozen=True)
class WebSettings:
    """The page. ``bind`` other than this machine itself needs a token, from an environment variable or a file."""

    port: int = 8099
    bind: str = "127.0.0.1"
    token_env: str | None = None
    token_file: str | None = None
    pictures_hz: float = 5.0


@dataclass(frozen=True)
class DriftSettings:
    """The drift watch.

    Attributes:
        window: Samples that are compared with the calibration at a time.
        limit: How far, in standard deviations of the training data, a mean may move before it is told.
        save: Folder for samples to calibrate anew with; None = nothing is recorded.
        save_mib: Most that folder may hold.
        key_env, key_file: Key (32 bytes as 64 hex digits) to encrypt them with.
    """

    window: int = 200
    limit: float = 3.0
    save: str | None = None
    save_mib: float = 64.0
    key_env: str | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class GateSettings:
    """What a run says about the bundle's gates.

    Attributes:
        use: False: every branch runs always.
        every_s: Instead of the bundle's: a gated branch runs at least so often.
        shadow: Instead of the bundle's: share of the skipped calls that run all the same, 0 to 1.
    """

    use: bool = True
    every_s: float | None = None
    shadow: float | None = None


@dataclass(frozen=True)
class Part:
    """A source or sink: its plugin and its options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """A checked ``run.yaml``.

    Attributes:
        name: The device's name, in topics and on the page.
        decide_hz: Most decisions a second.
        whole: Run the model as one graph even where the bundle holds its parts; then every input must be there.
        reuse: Of a stream compute each frame of sound and each step once. ``auto`` = where that is faster here; ``on`` = also where not.
        shares: Events say how much each input added to their score.
    """

    name: str = "edgemm"
    target: str | None = None
    decide_hz: float = 5.0
    whole: bool = False
    reuse: Literal["auto", "on", "off"] = "auto"
    shares: bool = False
    inputs: Mapping[str, InputSettings] = field(default_factory=dict)
    sources: tuple[Part, ...] = ()
    sinks: tuple[Part, ...] = ()
    decisions: Mapping[str, DecisionSettings] = field(default_factory=dict)
    tracks: Mapping[str, TrackSettings] = field(default_factory=dict)
    zones: Mapping[str, ZoneSettings] = field(default_factory=dict)
    lines: Mapping[str, LineSettings] = field(default_factory=dict)
    web: WebSettings | None = None
    drift: DriftSettings | None = None
    gates: GateSettings = field(default_factory=GateSettings)

    @property
    def can_enrol(self) -> bool:
        """Whether somebody could tell a run who is seen: on the page, or by MQTT."""
        return self.web is not None or any(part.kind == "mqtt" for part in self.sinks)

    def input(self, name: str) -> InputSettings:
        return self.inputs.get(name, InputSettings())

    def rate_hz(self, name: str) -> float:
        return self.input(name).rate_hz or self.decide_hz

    def stale_s(self, name: str, card: Card) -> float:
        settings = self.input(name)
        if settings.stale_s is not None:
            return settings.stale_s
        lasts = settings.value is not None or isinstance(of(card.inputs[name], folder=card.folder).stream(), Texts)
        return float("inf") if lasts else max(2.0, 3 / self.rate_hz(name))

    def lost_s(self, output: str, frame: str) -> float:
        """After how long without a box a track of ``output`` ends, whose pictures are the input ``frame``."""
        chosen = self.tracks.get(output, TrackSettings()).lost_s
        return chosen if chosen is not None else max(1.0, 3 / min(self.decide_hz, self.rate_hz(frame)))

    def fed(self) -> dict[str, int]:
        """Input -> place of the source that feeds it."""
        return {name: index for index, part in enumerate(self.sources) for name in names_of(part.options.get("inputs"))}


def names_of(inputs: Any) -> list[str]:
    """The inputs that an entry names: none, one, or a list of them."""
    return [inputs] if isinstance(inputs, str) else [str(name) for name in inputs] if isinstance(inputs, (list, tuple)) else []
