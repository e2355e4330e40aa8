"""Audio Spectrogram Transformer: a sound's bands over time as a picture."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("audio-spectrogram-transformer",)
FLOOR = 1.192092955078125e-07  # Kaldi's
HOP = 160


class Spectrogram(Family):
    """Ten seconds, as AudioSet's clips have them, and frames without sound behind: so it was trained."""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        said, config = folder.require_processor(), folder.config
        rate = said.get("sampling_rate", 16000)
        frames = said.get("max_length", config.get("max_length", 1024))
        features = {
            "mels": said.get("num_mel_bins", config.get("num_mel_bins", 128)), "window_ms": 25.0, "hop_ms": 1000 * HOP / rate,
            "fft": 512, "fmin_hz": 20.0, "mel_slope": "mel", "window": "hann_symmetric", "dc": "remove", "preemphasis": 0.97,
            "floor": FLOOR, "length": frames, "frames_first": True,
        }  # fmt: skip
        if said.get("do_normalize", True):
            mean, std = said.get("mean", -4.2677393), said.get("std", 4.5689974)
            features |= {"scale": 0.5 / std, "shift": -0.5 * mean / std}
        seconds = min(10.0, frames * HOP / rate)
        return {"audio": Side("audio", {"rate_hz": rate, "seconds": seconds, "features": {"log_mel": features}}, takes="input_values")}
