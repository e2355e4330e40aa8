"""CLAP: sounds and texts in one space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemm.errors import CardError
from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("clap",)
DECIBELS = 4.342944819032518  # 10 / ln 10
FUSED = "fusion"


class Clap(Family):
    """A clip is never longer than the model's window, so that its fusion of several windows never runs."""

    scale = "logit_scale_a"

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        words = folder.part("text_config")
        return {
            "audio": Side(
                "audio",
                self._sound(folder.require_processor(), folder.part("audio_config")),
                takes="input_features",
                tower="audio_model",
                projection="audio_projection",
                is_unit=True,
                has_channel=True,
            ),
            "text": Side(
                "text",
                folder.text(words, least=int(words.get("pad_token_id", 1)) + 1),
                takes="input_ids",
                tower="text_model",
                projection="text_projection",
                is_unit=True,
            ),
        }

    def _sound(self, said: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        """Source: transformers' ClapFeatureExtractor."""
        if said.get("padding", "repeatpad") not in ("repeatpad", "pad"):
            raise CardError(f"CLAP's padding '{said['padding']}' is not known.", fix="known are repeatpad and pad.")
        rate, window, hop = said.get("sampling_rate", 48000), said.get("fft_window_size", 1024), said.get("hop_length", 480)
        bands = said.get("feature_size", config.get("num_mel_bins", 64))
        slaney = said.get("truncation", FUSED) != FUSED
        features = {
            "mels": bands, "window_ms": 1000 * window / rate, "hop_ms": 1000 * hop / rate, "fft": window,
            "fmin_hz": float(said.get("frequency_min", 0)), "fmax_hz": float(said.get("frequency_max", 14000)),
            "mel_scale": "slaney" if slaney else "htk", "mel_norm": "slaney" if slaney else "none", "center": True,
            "floor": 1e-10, "scale": DECIBELS, "frames_first": True,
        }  # fmt: skip
        fill = {"fill": "repeat"} if said.get("padding", "repeatpad") == "repeatpad" else {}
        return {"rate_hz": rate, "seconds": float(said.get("max_length_s", 10)), **fill, "features": {"log_mel": features}}

    def adapted(self, model: Any, shape: tuple[int, ...]) -> Any:
        encoder = getattr(model, "audio_encoder", None)
        if encoder is not None:
            encoder.enable_fusion = encoder.patch_embed.enable_fusion = False
        return model
