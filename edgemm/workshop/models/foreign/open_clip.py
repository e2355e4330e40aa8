"""open_clip's CLIP with a vision transformer: the same model as transformers' CLIP, its weights by other names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgemm.workshop.models.foreign.translation import THIRDS, Taken, Translation, config_in, refuse, require_all, shapes_in

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "model.safetensors")
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
RESAMPLING = {"bicubic": 3, "bilinear": 2}
TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
HEAD_WIDTH, MLP_RATIO, VOCABULARY, CONTEXT = 64, 4.0, 49408, 77  # open_clip's, where a configuration says none
LAST_TOKEN = 2  # transformers' CLIP then takes the state of the largest id, as open_clip does
LAYER = {
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def translate(path: Path) -> Translation:
    """The folder in transformers' words.

    Raises:
        CardError: Its model is another than a CLIP with a vision transformer.
        CheckpointError: Its weights are not those.
    """
    plain = config_in(path / CONFIG)
    model, said = plain.get("model_cfg") or {}, plain.get("preprocess_cfg") or {}
    vision, text = model.get("vision_cfg") or {}, model.get("text_cfg") or {}
    odd = sorted(model.keys() - TOP)
    for part, own, known in (("vision_cfg", vision, VISION), ("text_cfg", text, TEXT)):
        odd += [f"{part}.{key}" for key in sorted(own.keys() - known)]
    if odd or not isinstance(vision.get("layers"), int):
        raise refuse(path, "open_clip", f"it is no plain CLIP with a ViT: its configuration says {', '.join(odd) or 'nothing of layers'}.")
    file = next((path / name for name in FILES if (path / name).is_file()), path / FILES[0])
    shapes = shapes_in(file, "copy open_clip_model.safetensors from where the model came from; a .bin is a pickle, and is not read.")
    below = "text." if "text.token_embedding.weight" in shapes else ""
    size = vision.get("image_size", 224)
    config = {
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": {
            "image_size": size[0] if isinstance(size, list) else size,
            "patch_size": vision["patch_size"],
            **_sizes(vision, vision["width"] // vision.get("head_width", HEAD_WIDTH), quick=bool(model.get("quick_gelu"))),
        },
        "text_config": {
            "vocab_size": text.get("vocab_size", VOCABULARY),
            "max_position_embeddings": text.get("context_length", CONTEXT),
            "eos_token_id": LAST_TOKEN,
            **_sizes(text, text["heads"], quick=bool(model.get("quick_gelu"))),
        },
    }
    weights = dict(_weights(below, vision["layers"], text["layers"]))
    require_all(file, shapes, weights, (f"{below}attn_mask",))
    return Translation(config, _processor(path, said, config["vision_config"]["image_size"]), file, weights)


def _sizes(said: dict[str, Any], heads: int, *, quick: bool) -> dict[str, Any]:
    width = said["width"]
    return {
        "hidden_size": width,
        "intermediate_size": int(width * said.get("mlp_ratio", MLP_RATIO)),
        "num_hidden_layers": said["layers"],
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu" if quick else "gelu",
        "layer_norm_eps": 1e-5,
    }


def _processor(path: Path, said: dict[str, Any], size: int) -> dict[str, Any]:
    mode, resampling = said.get("resize_mode", "shortest"), said.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash") or resampling not in RESAMPLING:
        raise refuse(path, "open_clip", f"pictures are brought to size by '{mode}' and '{resampling}'.")
    edge = {"shortest_edge": size} if mode == "shortest" else {"height": size, "width": size}
    crop = {"crop_size": {"height": size, "width": size}} if mode == "shortest" else {}
    return {
        "image_processor_type": "CLIPImageProcessor", "size": edge, **crop, "resample": RESAMPLING[resampling],
        "image_mean": said.get("mean", MEAN), "image_std": said.get("std", STD),
    }  # fmt: skip


def _weights(below: str, vision_layers: int, text_layers: int) -> Iterator[tuple[str, tuple[str, Taken]]]:
    """Transformers' weight -> open_clip's."""
    whole: dict[str, str] = {
        "logit_scale": "logit_scale",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": f"{below}token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": f"{below}positional_embedding",
    }
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": f"{below}ln_final",
    }  # fmt: skip
    for ours, theirs in whole.items():
        yield ours, (theirs, "whole")
    for ours, theirs in norms.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", (f"{theirs}.{kind}", "whole")
    yield "visual_projection.weight", ("visual.proj", "transposed")
    yield "text_projection.weight", (f"{below}text_projection", "transposed")
    for tower, theirs, layers in (("vision_model", "visual.", vision_layers), ("text_model", below, text_layers)):
        for number in range(layers):
            yield from _layer(f"{tower}.encoder.layers.{number}", f"{theirs}transformer.resblocks.{number}")


def _layer(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, Taken]]]:
    for kind in ("weight", "bias"):
        for name, third in zip(("q_proj", "k_proj", "v_proj"), THIRDS, strict=True):
            yield f"{ours}.self_attn.{name}.{kind}", (f"{theirs}.attn.in_proj_{kind}", third)
        for inner, outer in LAYER.items():
            yield f"{ours}.{outer}.{kind}", (f"{theirs}.{inner}.{kind}", "whole")
