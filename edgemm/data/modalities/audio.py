"""Sound: float32 PCM (samples,) into the graph; PCM, log-mel or MFCC into ``forward``."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemm.contracts.card import FILL_IN
from edgemm.contracts.frontend_ops import Normalize, Op
from edgemm.contracts.modality import AXES_BY_RANK, BANDS_OVER_TIME, TIME, Form, Framing, Modality, existing, flow, needing
from edgemm.contracts.stream import Sound
from edgemm.data.modalities._audio import features as _features
from edgemm.data.modalities._audio.mel import Mel
from edgemm.data.modalities._audio.resample import needed, resample
from edgemm.errors import CardError, DataError

PACKAGES = ("soundfile",)
FORMS = ("audio=16000@16000hz", "audio=16000@16000hz:log_mel=40")
HUGGING_FACE = {"": "input_values", "features": "input_features"}
BANDS = {"log_mel": "mels", "mfcc": "coefs"}
FEATURES = (("log_mel", 40), ("log_mel", 64), ("log_mel", 80), ("log_mel", 128), ("log_mel", 32), ("mfcc", 13), ("mfcc", 20), ("mfcc", 40))
"""What a model that takes no samples may take; the commonest first."""
ADDED_TO_VARIANCE = 1e-7  # as transformers' Wav2Vec2FeatureExtractor does
HEARD_HZ = 1000  # a series that comes slower is a sensor's


@dataclass(frozen=True)
class Audio(Modality):
    """A clip of ``seconds`` of mono sound at ``rate_hz``.

    Attributes:
        features: ``none`` (forward gets the samples), ``{log_mel: {...}}`` or ``{mfcc: {...}}``; their keys are in docs/card.md.
        resample: Whether files of another rate are converted; if not, they are an error.
        fill: What stands behind a file that is too short: ``silence``, or the file again as often as it fits (``repeat``), then silence.
        standardize: Whether forward gets each clip's samples with mean 0 and deviation 1 (wav2vec2, HuBERT); where there are no features.
    """

    rate_hz: int
    seconds: float
    features: dict[str, Any] | str | None = None
    resample: bool = True
    fill: Literal["silence", "repeat"] = "silence"
    standardize: bool = False

    def __post_init__(self) -> None:
        if self.rate_hz < 1:
            raise CardError(f"rate_hz is {self.rate_hz}.", fix="write samples a second, such as 16000.")
        if not 0 < self.seconds < float("inf") or self.samples < 1:
            raise CardError(
                f"seconds is {self.seconds}.", why=f"at {self.rate_hz} Hz that is no sample.", fix="write the length of a clip."
            )
        if self.mel() is not None and self.standardize:
            raise CardError("standardize is true, and there are features.", fix="write features' normalize: clip, or remove one of both.")

    @property
    def samples(self) -> int:
        """Length of a clip in samples."""
        return round(self.rate_hz * self.seconds)

    @functools.cached_property
    def _mel(self) -> Mel | None:
        return _features.parse(self.features, rate_hz=self.rate_hz, samples=self.samples)

    def mel(self) -> Mel | None:
        """The features asked for; None where forward gets the samples."""
        return self._mel

    def stream(self) -> Sound:
        framing = self.framing()
        return Sound(self.rate_hz, self.samples, self.resample, framing.hop if framing else 1)

    def axes(self) -> tuple[str, ...]:
        mel = self.mel()
        return TIME if mel is None else AXES_BY_RANK[2] if mel.frames_first else BANDS_OVER_TIME

    def encoder(self) -> str:
        return "conv_gru"

    def dtype(self) -> str:
        return "float32"

    def shape(self) -> tuple[int | str, ...]:
        return (self.samples,)

    def decode(self, cell: Any, folder: Path) -> np.ndarray:
        """A path (WAV, FLAC, OGG and what else libsndfile reads), the encoded bytes, or samples -> float32 (samples,)."""
        if isinstance(cell, dict):  # as Hugging Face datasets store sound in parquet
            cell = cell.get("bytes") or cell.get("path") or cell
        if isinstance(cell, str):
            return self._read(existing(cell, folder), f"'{folder / cell.strip()}'")
        if isinstance(cell, bytes):
            return self._read(io.BytesIO(cell), "the sound")
        return self.prepare(cell, rate_hz=self.rate_hz)

    def prepare(self, wave: Any, *, rate_hz: int) -> np.ndarray:
        """Samples as a microphone gives them -> one clip: mono, at the card's rate, cut or zero-padded at the end.

        Args:
            wave: float (samples,) or (samples, channels) in [-1, 1], or int16.
            rate_hz: Its rate.

        Raises:
            DataError: Empty, not finite, of another dtype or shape, or of another rate where ``resample`` is off.
        """
        wave = np.asarray(wave)
        if wave.dtype == np.int16:
            wave = wave.astype(np.float32) / np.float32(32768)
        if wave.dtype.kind != "f" or wave.ndim not in (1, 2):
            raise DataError(
                f"a sound array has dtype {wave.dtype} and shape {wave.shape}.",
                why="sound is float in [-1, 1] or int16, (samples,) or (samples, channels).",
                fix="convert it before it goes in.",
            )
        self.stream().check_rate(rate_hz, "the sound")
        return self._finish(wave.astype(np.float32, copy=False), rate_hz, "the sound")

    def _read(self, source: Path | io.BytesIO, name: str) -> np.ndarray:
        with needing("reading sound files"):
            from edgemm.data.modalities._audio import sounds
        wave, rate_hz = sounds.read(source, name, lambda rate: needed(self.samples, rate, self.rate_hz))
        self.stream().check_rate(rate_hz, name)
        return self._finish(wave, rate_hz, name)

    def _finish(self, wave: np.ndarray, rate_hz: int, name: str) -> np.ndarray:
        if not wave.size:
            raise DataError(f"{name} holds no samples.", fix="replace or remove it.")
        if wave.ndim == 2:
            wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)
        wave = wave[: needed(self.samples, rate_hz, self.rate_hz)]
        if not np.isfinite(wave).all():
            index = int(np.flatnonzero(~np.isfinite(wave))[0])
            raise DataError(f"{name} holds {wave[index]} at sample {index}.", why="a sample is a finite number.", fix="mend or remove it.")
        if rate_hz != self.rate_hz:
            wave = resample(wave, rate_hz, self.rate_hz)
        if self.fill == "repeat":
            wave = np.tile(wave, max(self.samples // len(wave), 1))
        clip = np.zeros(self.samples, np.float32)
        clip[: len(wave)] = wave[: self.samples]
        return clip

    def frontend(self) -> list[Op]:
        mel = self.mel()
        if mel is None:
            return [Normalize(floor=0.0, added=ADDED_TO_VARIANCE)] if self.standardize else []
        return mel.ops()

    def frontend_forms(self) -> Mapping[str, list[Op]]:
        mel = self.mel()
        return {} if mel is None else mel.forms()

    def notes(self) -> list[str]:
        mel = self.mel()
        return [] if mel is None else _features.notes(mel)

    def framing(self) -> Framing | None:
        mel = self.mel()
        return None if mel is None else mel.framing()

    def synthetic(self, rng: np.random.Generator) -> np.ndarray:
        """A few decaying tones in faint noise."""
        time = np.arange(self.samples) / self.rate_hz
        tones = [np.sin(2 * np.pi * rng.uniform(0.01, 0.4) * self.rate_hz * time) * np.exp(-time * rng.uniform(0, 6)) for _ in range(4)]
        wave: np.ndarray = 0.15 * np.sum(tones, axis=0) + rng.normal(0, 0.005, self.samples)
        return wave.astype(np.float32)

    def file(self, cell: Any) -> str | None:
        return cell if isinstance(cell, str) else None

    @classmethod
    def likeness(cls, form: Form) -> int:
        return 2 * bool(form.rate_hz and len(form.sizes) == 1 and form.rate_hz >= HEARD_HZ)

    @classmethod
    def drafted(cls, form: Form) -> dict[str, Any] | None:
        if not form.has_only(settings=tuple(BANDS)) or len(form.settings) > 1:
            return None
        rate = form.rate_hz
        if len(form.sizes) != 1 or not rate or rate != int(rate):
            raise CardError("a sound is a number of samples at a rate.", fix="write audio=16000@16000hz.")
        seconds = form.sizes[0] / rate
        features = {kind: {BANDS[kind]: bands} for kind, bands in form.settings.items()}
        options = {"rate_hz": int(rate), "seconds": int(seconds) if seconds == int(seconds) else seconds}
        return options | ({"features": features} if features else {})

    @classmethod
    def alternatives(cls, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        if "features" in options:
            return []
        return [{**options, "features": {kind: {BANDS[kind]: bands}}} for kind, bands in FEATURES]

    @classmethod
    def draft_lines(cls, options: Mapping[str, Any], *, guessed: bool) -> list[str]:
        lines = [f"{key}: {flow(value)}" for key, value in options.items()]
        if not guessed:
            return lines
        comment = "# the model takes no samples, but these features: write the settings it was trained with"
        return [*lines[:-1], comment, f"{lines[-1]}  {FILL_IN}"]
