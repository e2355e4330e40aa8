"""A sound's front-end in its forms, on every target that runs here: time of one clip, bytes, and how far it is from double precision.

Launch: python benchmarks/frontend.py [SOUND.wav ...]    (without one: seeded tones)

Forms are timed side by side, one process each, one thread, interleaved rounds: p50 with its 95% interval, and the ratio to the dense form.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _results import save

from edgemm.box.measuring.candidate import Candidate, Timing
from edgemm.box.measuring.schedule import time_candidates
from edgemm.box.measuring.statistics import percentiles, ratio
from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Card
from edgemm.contracts.deployment import Deployment
from edgemm.contracts.modality import modalities
from edgemm.data.modalities.audio import Audio
from edgemm.graph.frontend import alone

SOUNDS = {
    "window 1024, FFT 1024, hop 256, 2 s at 16 kHz": (16000, 2.0, {"window_ms": 64, "hop_ms": 16, "mels": 64}),
    "window 400, FFT 512, hop 160, 1 s at 16 kHz": (16000, 1.0, {"window_ms": 25, "hop_ms": 10}),
    "window 200, FFT 256, hop 80, 1 s at 8 kHz": (8000, 1.0, {"window_ms": 25, "hop_ms": 10}),
}
RUNTIMES: dict[str, tuple[str, dict[str, Any]]] = {
    "openvino f32": ("openvino", {"threads": 1, "precision": "f32"}),
    "openvino bf16": ("openvino", {"threads": 1, "precision": "bf16"}),
    "onnxruntime": ("onnxruntime", {"threads": 1}),
}


def main(*sounds: str) -> None:
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, (rate_hz, seconds, features) in SOUNDS.items():
            audio = {"modality": "audio", "rate_hz": rate_hz, "seconds": seconds, "features": {"log_mel": features}}
            card = cards.parse({"factory": "a:b", "inputs": {"sound": audio}, "outputs": {"y": {"task": "embedding"}}})
            figures[title] = _compare(card, [Path(sound) for sound in sounds], Path(folder))
    save("frontend", figures)


def _compare(card: Card, sounds: list[Path], folder: Path) -> dict[str, Any]:
    audio = modalities(card)["sound"]
    assert isinstance(audio, Audio)
    clip = audio.decode(str(sounds[0].resolve()), Path()) if sounds else audio.synthetic(np.random.default_rng(0))
    models = {}
    for form in audio.frontend_forms():
        models[form] = folder / f"{form}.onnx"
        onnx.save(alone(card, "sound", form), models[form])
    candidates = [
        Candidate(f"{runtime}, {form}", "float", Deployment(target, model, {}, options))
        for runtime, (target, options) in RUNTIMES.items()
        for form, model in models.items()
    ]
    timings = time_candidates(candidates, {"sound": clip[None]}, rounds=16, calls=60, seconds=4.0, launches=4)
    exact = _exact(audio, clip)
    features = {form: _run(model, clip) for form, model in models.items()}
    errors = {form: float(np.abs(value - exact).max() / np.abs(exact).max()) for form, value in features.items()}
    of_loudest = {form: _of_loudest(value, exact) for form, value in features.items()}
    rows = {name: _row(timing, timings[f"{name.split(', ')[0]}, dense"]) for name, timing in timings.items()}
    sizes = {form: model.stat().st_size for form, model in models.items()}
    return {"bytes": sizes, "relative_error": errors, "amplitude_error_of_loudest_band": of_loudest, "runtimes": rows}


def _of_loudest(features: np.ndarray, exact: np.ndarray) -> float:
    """How far a band's amplitude is off, as a share of the loudest one of its frame: logarithms of powers in, (1, bands, frames)."""
    amplitude = np.exp(exact / 2)
    return float((np.abs(np.exp(features.astype(np.float64) / 2) - amplitude) / amplitude.max(axis=1, keepdims=True)).max())


def _row(timing: Timing, dense: Timing) -> dict[str, Any]:
    if timing.error or dense.error:
        return {"error": str(timing.error or dense.error)}
    (p50,) = percentiles(timing.samples_ms, [50])
    share = ratio(timing.samples_ms, dense.samples_ms, launches=timing.launches)
    return {"p50_ms": [p50.value, p50.low, p50.high], "of_dense": [share.value, share.low, share.high]}


def _run(model: Path, clip: np.ndarray) -> np.ndarray:
    with Deployment("onnxruntime", model).open() as session:
        (features,) = session.run({"sound": clip[None]}).values()
    return features


def _exact(audio: Audio, clip: np.ndarray) -> np.ndarray:
    """The same in double precision, by numpy's transform."""
    from edgemm.data.modalities._audio.mel import bands

    mel = audio.mel()
    assert mel is not None
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)
    frames = np.lib.stride_tricks.sliding_window_view(clip.astype(np.float64), mel.window)[:: mel.hop] * hann
    power = np.abs(np.fft.rfft(frames, mel.fft_length)) ** mel.power
    log: np.ndarray = np.log(np.maximum(bands(mel) @ power.T, mel.floor))[None]
    return log


if __name__ == "__main__":
    main(*sys.argv[1:])
