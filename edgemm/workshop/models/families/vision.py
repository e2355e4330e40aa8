"""Pictures alone: ViT, DINOv2, ConvNeXt, Swin, ResNet and their like."""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.workshop.models.hf_folder import Family, Folder, Side

MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers", "swin", "swinv2", "convnext", "convnextv2", "resnet")
CLASS_TOKEN = ("vit", "dinov2", "dinov2_with_registers")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Vision(Family):
    """The vector is the class token's, or the mean over all places."""

    def sides(self, folder: Folder) -> Mapping[str, Side]:
        kind = folder.config["model_type"]
        means = {} if kind == "vit" else {"mean": MEAN, "std": STD}
        options = folder.image(folder.config, **means)
        return {"image": Side("image", options, takes="pixel_values", pool="first" if kind in CLASS_TOKEN else "pooler")}
