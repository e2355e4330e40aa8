"""CLIP: pictures and texts in one space."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("clip",)
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # of its processor, where the folder says none


class Clip(Family):
    """The vector of a text is its end's, which sees all words before it and no padding behind."""

    scale = "logit_scale"

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        words = folder.part("text_config")
        return {
            "image": Side(
                "image",
                folder.image(folder.part("vision_config"), mean=MEAN, std=STD),
                takes="pixel_values",
                tower="vision_model",
                projection="visual_projection",
            ),
            "text": Side(
                "text",
                folder.text(words, tokens=int(words.get("max_position_embeddings", 77)), mask=False),
                takes="input_ids",
                tower="text_model",
                projection="text_projection",
                hides_padding=False,
            ),
        }
