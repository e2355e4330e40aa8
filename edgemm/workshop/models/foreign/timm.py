"""timm's ViT, ResNet and ConvNeXt: the same models as transformers', their weights by other names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemm.workshop.models.foreign.translation import THIRDS, Shapes, Taken, Translation, config_in, refuse, require_all, shapes_in

CONFIG, FILE = "config.json", "model.safetensors"
VIT = re.compile(r"vit_(tiny|small|base|large)_patch(8|14|16|32)_(\d+)")
HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CONVNEXTS = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "convnext_xlarge")
RESAMPLING = {"bicubic": 3, "bilinear": 2, "lanczos": 1, "nearest": 0}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CROP, SIZE = 0.875, [3, 224, 224]
ARGUMENTS = ("img_size", "num_classes", "in_chans", "global_pool")
"""Of ``model_args``: what the weights, or the pre-processing, tell as well."""
Weights = Iterator[tuple[str, tuple[str, Taken]]]


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is timm's."""
    return {"architecture", "pretrained_cfg"} <= config.keys()


def translate(path: Path) -> Translation:
    """The folder in transformers' words; the model's vector is what its classifier would read.

    Raises:
        CardError: Its model has no equal in transformers.
        CheckpointError: Its weights are not those.
    """
    plain = config_in(path / CONFIG)
    said, name = plain.get("pretrained_cfg") or {}, str(plain["architecture"])
    odd = sorted((plain.get("model_args") or {}).keys() - {*ARGUMENTS})
    if odd:
        raise refuse(path, "timm", f"its model is built otherwise than usual ({', '.join(odd)}).")
    file = path / FILE
    shapes = shapes_in(file, "copy model.safetensors from where the model came from.")
    pool = (plain.get("model_args") or {}).get("global_pool") or plain.get("global_pool")
    if vit := VIT.fullmatch(name):
        if pool not in (None, "", "token"):
            raise refuse(path, "timm", f"its vector is pooled by '{pool}', a ViT's here is its class token's.")
        config, weights = _vit(path, shapes, HEADS[vit[1]])
    elif name in RESNETS:
        config, weights = _resnet(path, shapes)
    elif name in CONVNEXTS:
        config, weights = _convnext(path, shapes)
    else:
        raise refuse(path, "timm", f"'{name}' is none of vit_<size>_patch<n>_<n>, {', '.join((*RESNETS, *CONVNEXTS))}.")
    require_all(file, shapes, weights, ("head.",) if vit else ("fc.", "head.fc."))
    return Translation(config, _processor(path, said), file, weights)


def _processor(path: Path, said: Mapping[str, Any]) -> dict[str, Any]:
    """The shorter side to size / crop_pct, then the centre. Source: timm's transforms_imagenet_eval."""
    size, mode = said.get("input_size") or SIZE, said.get("crop_mode") or "center"
    share, resampling = float(said.get("crop_pct") or CROP), said.get("interpolation", "bicubic")
    if mode != "center" and not (mode == "squash" and share == 1.0):
        raise refuse(path, "timm", f"pictures are cropped by '{mode}' of {share:g}.")
    if resampling not in RESAMPLING or size[1] != size[2]:
        raise refuse(path, "timm", f"pictures are brought to {size[1]} x {size[2]} by '{resampling}'.")
    edge = math.floor(size[1] / share)
    wide = {"height": edge, "width": edge} if mode == "squash" else {"shortest_edge": edge}
    crop = {} if mode == "squash" else {"crop_size": {"height": size[1], "width": size[2]}}
    return {
        "image_processor_type": "BitImageProcessor", "size": wide, **crop, "resample": RESAMPLING[resampling],
        "image_mean": said.get("mean", MEAN), "image_std": said.get("std", STD),
    }  # fmt: skip


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers ``pattern`` is met with."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _vit(path: Path, shapes: Shapes, heads: int) -> tuple[dict[str, Any], dict[str, tuple[str, Taken]]]:
    width, channels, patch, _ = _shape(path, shapes, "patch_embed.proj.weight", 4)
    tokens = _shape(path, shapes, "pos_embed", 3)[1]
    layers = _count(shapes, r"blocks\.(\d+)\.")
    config = {
        "model_type": "vit", "hidden_size": width, "num_channels": channels, "patch_size": patch,
        "image_size": patch * math.isqrt(tokens - 1), "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": _shape(path, shapes, "blocks.0.mlp.fc1.weight", 2)[0], "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    }  # fmt: skip
    return config, dict(_vit_weights(layers))


def _vit_weights(layers: int) -> Weights:
    yield "embeddings.cls_token", ("cls_token", "whole")
    yield "embeddings.position_embeddings", ("pos_embed", "whole")
    inner = {"attn.proj": "attention.output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after"}
    inner |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for kind in ("weight", "bias"):
        yield f"embeddings.patch_embeddings.projection.{kind}", (f"patch_embed.proj.{kind}", "whole")
        yield f"layernorm.{kind}", (f"norm.{kind}", "whole")
        for number in range(layers):
            ours, theirs = f"encoder.layer.{number}", f"blocks.{number}"
            for name, third in zip(("query", "key", "value"), THIRDS, strict=True):
                yield f"{ours}.attention.attention.{name}.{kind}", (f"{theirs}.attn.qkv.{kind}", third)
            for their, our in inner.items():
                yield f"{ours}.{our}.{kind}", (f"{theirs}.{their}.{kind}", "whole")


def _resnet(path: Path, shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[str, Taken]]]:
    depths = [_count(shapes, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    inner = 3 if "layer1.0.conv3.weight" in shapes else 2
    sizes = [_shape(path, shapes, f"layer{stage}.0.conv{inner}.weight", 4)[0] for stage in range(1, 5)]
    width, channels, *_ = _shape(path, shapes, "conv1.weight", 4)
    config = {
        "model_type": "resnet", "num_channels": channels, "embedding_size": width, "hidden_sizes": sizes, "depths": depths,
        "layer_type": "bottleneck" if inner == 3 else "basic", "hidden_act": "relu",
    }  # fmt: skip
    return config, dict(_resnet_weights(shapes, depths, inner))


def _resnet_weights(shapes: Shapes, depths: list[int], inner: int) -> Weights:
    yield from _convolution("embedder.embedder", "conv1", "bn1")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            ours, theirs = f"encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            for number in range(inner):
                yield from _convolution(f"{ours}.layer.{number}", f"{theirs}.conv{number + 1}", f"{theirs}.bn{number + 1}")
            if f"{theirs}.downsample.0.weight" in shapes:
                yield from _convolution(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")


def _convolution(ours: str, theirs: str, norm: str) -> Weights:
    yield f"{ours}.convolution.weight", (f"{theirs}.weight", "whole")
    for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{ours}.normalization.{kind}", (f"{norm}.{kind}", "whole")


def _convnext(path: Path, shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[str, Taken]]]:
    depths = [_count(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
    sizes = [_shape(path, shapes, f"stages.{stage}.blocks.0.conv_dw.weight", 4)[0] for stage in range(4)]
    _, channels, patch, _ = _shape(path, shapes, "stem.0.weight", 4)
    config = {
        "model_type": "convnext", "num_channels": channels, "patch_size": patch, "hidden_sizes": sizes, "depths": depths,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6,
    }  # fmt: skip
    return config, dict(_convnext_weights(depths))


def _convnext_weights(depths: list[int]) -> Weights:
    inner = {"conv_dw": "dwconv", "norm": "layernorm", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}
    for kind in ("weight", "bias"):
        yield f"embeddings.patch_embeddings.{kind}", (f"stem.0.{kind}", "whole")
        yield f"embeddings.layernorm.{kind}", (f"stem.1.{kind}", "whole")
        yield f"layernorm.{kind}", (f"head.norm.{kind}", "whole")
        for stage, depth in enumerate(depths):
            ours, theirs = f"encoder.stages.{stage}", f"stages.{stage}"
            for number in range(2 if stage else 0):
                yield f"{ours}.downsampling_layer.{number}.{kind}", (f"{theirs}.downsample.{number}.{kind}", "whole")
            for block in range(depth):
                for their, our in inner.items():
                    yield f"{ours}.layers.{block}.{our}.{kind}", (f"{theirs}.blocks.{block}.{their}.{kind}", "whole")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            yield f"encoder.stages.{stage}.layers.{block}.layer_scale_parameter", (f"stages.{stage}.blocks.{block}.gamma", "whole")


def _shape(path: Path, shapes: Shapes, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a weight that the model is told by."""
    if len(shapes.get(name, ())) != axes:
        raise refuse(path, "timm", f"its weights have no '{name}' of {axes} axes.")
    return shapes[name]
