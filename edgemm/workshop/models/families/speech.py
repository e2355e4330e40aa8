"""wav2vec 2.0, HuBERT and their like: samples of speech as a vector, the mean over their states."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio")
SECONDS = 4.0  # they take any length; edit the card for others


class Speech(Family):
    """They take the samples themselves."""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        said = folder.require_processor()
        options = {"rate_hz": said.get("sampling_rate", 16000), "seconds": SECONDS, "standardize": bool(said.get("do_normalize", True))}
        return {"audio": Side("audio", options, takes="input_values", pool="mean")}
