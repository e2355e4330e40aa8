"""The porch: generated pictures and sounds of a front door, in which neither tells what happened without the other.

A person at the door is a visitor after the bell and an intruder after breaking glass; steps announce a visitor on an empty porch, and a
thief where a parcel stands. ``EVENTS`` is the whole truth, so the best any single-modality model can do is known (``ceiling``).
Everything is drawn and synthesised from a seed.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from wave import open as open_wav

import numpy as np

SIZE = 64
RATE_HZ = 16000
SAMPLES = RATE_HZ  # one second
SHARD = 5000  # samples after which the longest-ringing piece of glass has faded to 0.6%
COUNTS = {"train": 2400, "val": 300, "test": 800}
SEEDS = {"train": 1, "val": 2, "test": 3}
LABELS = ("quiet", "visitor", "delivery", "animal", "intruder")
PICTURES = ("empty", "person", "parcel", "cat")
SOUNDS = ("silence", "steps", "bell", "bark", "glass")
EVENTS = {
    "empty": {"silence": "quiet", "steps": "visitor", "bell": "visitor", "bark": "animal", "glass": "intruder"},
    "person": {"silence": "visitor", "steps": "quiet", "bell": "visitor", "bark": "intruder", "glass": "intruder"},
    "parcel": {"silence": "delivery", "steps": "intruder", "bell": "delivery", "bark": "animal", "glass": "intruder"},
    "cat": {"silence": "animal", "steps": "visitor", "bell": "visitor", "bark": "animal", "glass": "animal"},
}
"""Picture -> sound -> event; every pair is equally likely."""

CARD = f"""\
# For: the porch demo. A picture and a second of sound, gated; neither alone is enough.
factory: models:image-audio-gated
kwargs:
  encoders:
    image: {{cnn: {{channels: [16, 32, 64, 96], width: 96, dropout: 0.1}}}}
    audio: {{cnn: {{channels: [16, 32, 64, 96], width: 96, dropout: 0.1}}}}
  fusion: {{gated: {{gate: vector, width: 96, dropout: 0.1}}}}
inputs:
  image: {{modality: image, height: {SIZE}, width: {SIZE}, channels: 3, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}}
  audio: {{modality: audio, rate_hz: {RATE_HZ}, seconds: 1.0, features: {{log_mel: {{mels: 40, window_ms: 32, hop_ms: 16}}}}}}
outputs:
  event: {{task: classification, labels: [{", ".join(LABELS)}]}}
"""
"""The card of the reference model for these scenes."""


@dataclass(frozen=True)
class Scene:
    """One second at the door.

    Attributes:
        image: uint8, (64, 64, 3), RGB.
        audio: float32, (16000,), in [-1, 1].
        event: One of ``LABELS``.
    """

    image: np.ndarray
    audio: np.ndarray
    event: str
    picture: str
    sound: str


def scenes(split: str, count: int | None = None) -> Iterator[Scene]:
    """The first ``count`` scenes of a split, the same ones every time."""
    rng = np.random.default_rng(SEEDS[split])
    for _ in range(COUNTS[split] if count is None else count):
        picture, sound = str(rng.choice(PICTURES)), str(rng.choice(SOUNDS))
        yield Scene(draw(picture, rng), synthesise(sound, rng), EVENTS[picture][sound], picture, sound)


def write(folder: Path, counts: dict[str, int] | None = None) -> Path:
    """Write the scene set as a dataset folder: PNG, WAV (16 bit) and ``manifest.csv``; returns the manifest.

    Needs pillow.
    """
    from PIL import Image  # not at the top: drawing scenes needs numpy alone

    rows = []
    for kind in ("image", "audio"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for split, count in (counts or COUNTS).items():
        for number, scene in enumerate(scenes(split, count)):
            image, audio = f"image/{split}{number:05d}.png", f"audio/{split}{number:05d}.wav"
            Image.fromarray(scene.image).save(folder / image)
            _write_wav(folder / audio, scene.audio)
            rows.append((split, image, audio, scene.event))
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("split", "image", "audio", "event"), *rows])
    return manifest


def _write_wav(path: Path, audio: np.ndarray) -> None:
    with open_wav(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(np.round(audio * 32767).astype("<i2").tobytes())


def ceiling(modality: str) -> float:
    """The best accuracy (0 to 1) any model can reach that is given ``image`` or ``audio`` alone, over infinitely many scenes."""
    observations = EVENTS.values() if modality == "image" else [{p: EVENTS[p][sound] for p in PICTURES} for sound in SOUNDS]
    groups = [list(group.values()) for group in observations]
    return sum(Counter(group).most_common(1)[0][1] for group in groups) / sum(map(len, groups))


def draw(picture: str, rng: np.random.Generator) -> np.ndarray:
    """A picture of the porch with ``picture`` on it: uint8, (64, 64, 3); light, colours, places, sizes and noise vary."""
    canvas = _porch(rng)
    {"empty": lambda *_: None, "person": _person, "parcel": _parcel, "cat": _cat}[picture](canvas, rng)
    night = rng.random() < 0.4
    light = rng.uniform(0.3, 0.5) if night else rng.uniform(0.7, 1.1)
    tint = np.array([0.9, 0.95, 1.15]) if night else np.array([1.0, 1.0, rng.uniform(0.9, 1.0)])
    noise = rng.normal(0, rng.uniform(5, 10) if night else rng.uniform(2, 6), canvas.shape)
    lit: np.ndarray = np.clip(canvas * light * tint + noise, 0, 255).astype(np.uint8)
    return lit


def _porch(rng: np.random.Generator) -> np.ndarray:
    """Wall, floor, door and a flower pot (which is no parcel): float, (64, 64, 3), 0 to 255."""
    canvas = np.empty((SIZE, SIZE, 3))
    floor = 46 + int(rng.integers(-2, 3))
    canvas[:floor] = rng.uniform(110, 210, 3)
    canvas[floor:] = rng.uniform(60, 130, 3)
    door = int(rng.integers(4, 36))
    canvas[12:floor, door : door + 18] = rng.uniform(40, 180, 3)
    canvas[28:31, door + 14 : door + 16] = (230, 210, 90)
    pot = float(rng.uniform(4, 60))
    _paint(canvas, _box(pot, floor + 2, 3, 3), (150, 70, 40))
    _paint(canvas, _ellipse(pot, floor - 4, 4, 5), (40, rng.uniform(90, 150), 40))
    return canvas


def _person(canvas: np.ndarray, rng: np.random.Generator) -> None:
    x, foot, scale = rng.uniform(14, 50), rng.uniform(54, 60), rng.uniform(0.85, 1.15)
    skin, coat, trousers = rng.choice([(224, 180, 150), (150, 105, 75), (95, 65, 45)]), rng.uniform(20, 220, 3), rng.uniform(20, 120, 3)
    for side in (-1, 1):
        _paint(canvas, _box(x + side * 3 * scale, foot - 8 * scale, 2 * scale, 9 * scale), trousers)
        _paint(canvas, _box(x + side * 7 * scale, foot - 24 * scale, 1.6 * scale, 8 * scale), coat)
    _paint(canvas, _ellipse(x, foot - 24 * scale, 6.5 * scale, 10 * scale), coat)
    _paint(canvas, _ellipse(x, foot - 38 * scale, 4 * scale, 5 * scale), skin)


def _parcel(canvas: np.ndarray, rng: np.random.Generator) -> None:
    x, y = rng.uniform(12, 52), rng.uniform(48, 55)
    wide, high = rng.uniform(7, 10), rng.uniform(6, 8)
    _paint(canvas, _box(x, y, wide, high), np.array([186, 140, 90]) * rng.uniform(0.85, 1.15))
    _paint(canvas, _box(x, y, 1.2, high), (225, 205, 160))
    _paint(canvas, _box(x + wide / 2, y - high / 2, wide / 4, high / 5), (245, 245, 245))


def _cat(canvas: np.ndarray, rng: np.random.Generator) -> None:
    x, y, way = rng.uniform(16, 48), rng.uniform(49, 54), rng.choice([-1, 1])
    fur = rng.choice([(40, 38, 36), (215, 120, 45), (235, 230, 220)]) * rng.uniform(0.9, 1.1)
    _paint(canvas, _ellipse(x, y, 11, 5.5), fur)
    _paint(canvas, _ellipse(x + way * 11, y - 5, 5, 4.5), fur)
    for ear in (-3, 3):
        _paint(canvas, _ellipse(x + way * 11 + ear, y - 10, 1.5, 3), fur)
    _paint(canvas, _ellipse(x - way * 12, y - 7, 1.6, 8), fur)
    for leg in (-7, -3, 4, 8):
        _paint(canvas, _box(x + leg, y + 6.5, 1.2, 3.5), fur)


def _paint(canvas: np.ndarray, mask: np.ndarray, colour: object) -> None:
    canvas[mask] = colour


def _box(x: float, y: float, half_wide: float, half_high: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside: np.ndarray = (abs(columns - x) <= half_wide) & (abs(rows - y) <= half_high)
    return inside


def _ellipse(x: float, y: float, half_wide: float, half_high: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside: np.ndarray = ((columns - x) / half_wide) ** 2 + ((rows - y) / half_high) ** 2 <= 1
    return inside


def synthesise(sound: str, rng: np.random.Generator) -> np.ndarray:
    """One second with ``sound`` in it, over wind: float32, (16000,), in [-1, 1]; pitch, place, loudness and wind vary."""
    make: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"steps": _steps, "bell": _bell, "bark": _bark, "glass": _glass}
    wave = _low_pass(rng.normal(size=SAMPLES), int(rng.integers(8, 40)))
    wave *= rng.uniform(0.01, 0.06) / wave.std()
    wave += rng.normal(0, rng.uniform(0.001, 0.01), SAMPLES)
    if sound in make:
        event = make[sound](rng)
        wave += event * (rng.uniform(0.15, 0.7) / abs(event).max())
    heard: np.ndarray = np.clip(wave, -1, 1).astype(np.float32)
    return heard


def _steps(rng: np.random.Generator) -> np.ndarray:
    """Dull thuds, 0.28 to 0.4 s apart."""
    wave, gap = np.zeros(SAMPLES), rng.uniform(0.28, 0.4)
    for start in np.arange(rng.uniform(0.02, 0.25), 0.92, gap):
        thud = _low_pass(rng.normal(size=SAMPLES), int(rng.integers(18, 30))) * _decay(0.03)
        _add(wave, thud * rng.uniform(0.6, 1), start + rng.normal(0, 0.01))
    return wave


def _bell(rng: np.random.Generator) -> np.ndarray:
    """Ding-dong: two tones a third apart."""
    wave, high_hz, start = np.zeros(SAMPLES), rng.uniform(560, 820), rng.uniform(0.02, 0.3)
    for delay, hz in ((0.0, high_hz), (rng.uniform(0.25, 0.4), high_hz * 0.8)):
        tone = sum(level * _tone(hz * factor) for factor, level in ((1, 1.0), (2.0, 0.4), (3.01, 0.2)))
        _add(wave, tone * _decay(rng.uniform(0.15, 0.35)), start + delay)
    return wave


def _bark(rng: np.random.Generator) -> np.ndarray:
    """One to three barks: a harmonic tone that rises and falls within 0.16 s, with breath."""
    wave, pitch_hz, start = np.zeros(SAMPLES), rng.uniform(280, 620), rng.uniform(0.03, 0.25)
    for _ in range(int(rng.integers(1, 4))):
        length = rng.uniform(0.09, 0.16)
        arch = np.sin(np.linspace(0, np.pi, int(length * RATE_HZ)))
        phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.35 * arch)) / RATE_HZ
        voice = sum(np.sin(k * phase) / k for k in range(1, 7)) + rng.normal(0, 0.5, arch.size)
        _add(wave, voice * arch, start)
        start += length + rng.uniform(0.08, 0.2)
    return wave


def _glass(rng: np.random.Generator) -> np.ndarray:
    """A crack, then shards: many short high tones."""
    wave, start = np.zeros(SAMPLES), rng.uniform(0.03, 0.4)
    _add(wave, rng.normal(size=SAMPLES) * _decay(0.02) * 2, start)
    for _ in range(int(rng.integers(18, 36))):
        shard = _tone(rng.uniform(2000, 7000), SHARD) * _decay(rng.uniform(0.02, 0.06), SHARD)
        _add(wave, shard * rng.uniform(0.2, 1), start + rng.exponential(0.12))
    return wave


def _tone(hz: float, samples: int = SAMPLES) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(samples) / RATE_HZ)


def _decay(seconds: float, samples: int = SAMPLES) -> np.ndarray:
    return np.exp(-np.arange(samples) / (seconds * RATE_HZ))


def _low_pass(noise: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(noise, np.hanning(window + 2), mode="same")


def _add(wave: np.ndarray, event: np.ndarray, start_s: float) -> None:
    """Lay ``event`` into ``wave`` from ``start_s`` on; what reaches past the end is cut."""
    first = min(SAMPLES, max(0, int(start_s * RATE_HZ)))
    last = min(SAMPLES, first + event.size)
    wave[first:last] += event[: last - first]
