"""Whisper's encoder: speech as a vector, the mean over its states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from edgemm.errors import CardError
from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("whisper",)
CLAMP = 18.420680743952367  # 8 ln 10
QUARTER = 0.10857362047581294  # 1 / (4 ln 10)
HALVED = 2  # frames a position, by its second convolution


class Whisper(Family):
    """Thirty seconds as it comes; with fewer ``seconds`` in the card it takes as many positions from the first on."""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        said, config = folder.require_processor(), folder.config
        rate, length, hop = said.get("sampling_rate", 16000), said.get("n_fft", 400), said.get("hop_length", 160)
        features = {
            "mels": said.get("feature_size", config.get("num_mel_bins", 80)), "window_ms": 1000 * length / rate,
            "hop_ms": 1000 * hop / rate, "fft": length, "fmax_hz": 8000.0, "mel_scale": "slaney", "mel_norm": "slaney", "center": True,
            "floor": 1e-10, "within": CLAMP, "last_frame": "cut", "scale": QUARTER, "shift": 1.0,
        }  # fmt: skip
        options = {"rate_hz": rate, "seconds": float(said.get("chunk_length", 30)), "features": {"log_mel": features}}
        return {"audio": Side("audio", options, takes="input_features", tower="encoder", pool="mean")}

    def adapted(self, model: Any, shape: tuple[int, ...]) -> Any:
        positions, rest = divmod(shape[-1], HALVED)
        most = model.config.max_source_positions
        if rest or not 1 <= positions <= most:
            raise CardError(
                f"Whisper's encoder takes an even number of frames up to {HALVED * most}, not {shape[-1]}.",
                fix="mend seconds: 30 is its own, 5 and 10 are cheaper.",
            )
        if positions < most:
            model.config.max_source_positions = model.max_source_positions = positions
            table = nn.Embedding(positions, model.embed_positions.embedding_dim)
            table.weight = nn.Parameter(model.embed_positions.weight.detach()[:positions].clone(), requires_grad=False)
            model.embed_positions = table
        return model
