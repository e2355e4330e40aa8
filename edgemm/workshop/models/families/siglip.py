"""SigLIP, and SigLIP 2 of fixed resolution: pictures and texts in one space, each pair judged by itself."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("siglip",)
POSITIONS = 64


class Siglip(Family):
    """A text is always padded to the whole length, and padding is seen: so it was trained."""

    scale = "logit_scale"
    bias = "logit_bias"

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        words = folder.part("text_config")
        length = int(words.get("max_position_embeddings", POSITIONS))
        return {
            "image": Side("image", folder.image(folder.part("vision_config")), takes="pixel_values", tower="vision_model"),
            "text": Side(
                "text",
                folder.text({**words, "max_position_embeddings": length}, tokens=length, mask=False),
                takes="input_ids",
                tower="text_model",
                hides_padding=False,
            ),
        }
