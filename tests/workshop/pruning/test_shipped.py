"""Every fusion, encoder and head of the reference models, and small Hugging Face backbones: pruned and proved."""

import pytest
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts import plugins
from edgemm.workshop.models.build import build
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.protocols import Fusion
from edgemm.workshop.pruning.proof import disturbed

INPUTS = {
    "image": {"modality": "image", "height": 32, "width": 32, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "sound": {"modality": "audio", "rate_hz": 8000, "seconds": 0.25, "features": {"log_mel": {"mels": 16, "hop_ms": 16}}},
    "text": {"modality": "text", "vocab": 40, "length": 8, "mask": True},
    "motion": {"modality": "sensor", "shape": [16, 4], "rate_hz": 50},
}
KIND = {"kind": {"task": "classification", "labels": ["a", "b", "c"]}, "level": {"task": "regression"}}
TINY = {
    "bert": {
        "model_type": "bert", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 48,
    },
    "clip_text": {
        "model_type": "clip_text_model", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
    },
    "vit": {
        "model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 48,
    },
    "clip_vision": {
        "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 48,
    },
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "bottleneck"},
}  # fmt: skip
ENCODERS = {
    "cnn": "image", "residual_cnn": "image", "depthwise_cnn": "image", "vit": "image", "hf_vision": "image", "conv_gru": "sound",
    "lstm": "sound", "tcn": "motion", "mlp": "motion", "bag": "text", "text_cnn": "text", "text_lstm": "text", "transformer": "text",
    "hf_text": "text",
}  # fmt: skip
FUSIONS = {
    "average": {"width": 24}, "concat": {"width": 24}, "cross_attention": {"width": 32, "heads": 4},
    "gated": {"width": 24, "gate": "vector"},
    "graph": {"width": 24}, "mlp": {"map_width": 24, "hidden": [32]}, "product": {"width": 24, "beside": True},
    "towers": {"branches": {"kind": "image", "level": "other"}}, "weighted": {"width": 24},
}  # fmt: skip
LN = "a layer norm takes its mean over these channels"


def model_of(encoders, fusion, outputs=KIND, **kwargs):
    inputs = {name: INPUTS[kind] for name, (kind, _) in encoders.items()}
    plain = {"encoders": {name: encoder for name, (_, encoder) in encoders.items()}, "fusion": fusion, **kwargs}
    card = cards.parse({"factory": "models:digits", "kwargs": plain, "inputs": inputs, "outputs": outputs})
    torch.manual_seed(0)
    return disturbed(FusedModel(card, build(card)).eval())


def test_every_part_of_the_reference_models_is_tried():
    keep_space = {name for name in plugins.names("fusions") if plugins.find(Fusion, name).takes_maps}  # tests/flow/test_trained_boxes.py
    assert set(ENCODERS) == set(plugins.names("encoders")) - {"c2f", "hf"}  # hf: tests/workshop/models/test_towers.py
    assert set(FUSIONS) == set(plugins.names("fusions")) - keep_space


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name, halved):
    options = {"hf_vision": {"config": TINY["resnet"]}, "hf_text": {"config": TINY["bert"]}}.get(name, {})
    branch = {"image": ("image", {"cnn": {"channels": [8, 16], "width": 16}})}
    found, proof = halved(model_of({**branch, "other": (ENCODERS[name], {name: {"width": 24, **options}})}, {"concat": {"width": 24}}))
    assert proof.error < 1e-5
    assert sum(layer.branch == "other" for layer in found.layers) >= 2
    stays = {whole.name for whole in found.whole if whole.branch == "other" and LN not in whole.reason and whole.width > 1}
    assert not stays


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("other", ["sound", "text"])
def test_every_fusion_with_two_pairs_of_encoders(name, other, halved):
    image = {"sound": "depthwise_cnn", "text": "residual_cnn"}[other]
    beside = {"sound": {"conv_gru": {"channels": [16], "hidden": 16}}, "text": {"text_lstm": {"embedding": 16, "hidden": 16}}}[other]
    beside = {kind: {**options, "width": 24} for kind, options in beside.items()}
    encoders = {"image": ("image", {image: {"channels": [16, 24], "width": 24}}), "other": (other, beside)}
    found, proof = halved(model_of(encoders, {name: FUSIONS[name]}))
    assert proof.error < 1e-5
    stays = [whole for whole in found.whole if "output of the model" not in whole.reason and LN not in whole.reason]
    assert not stays
    # what enters the fusion gets narrower too: the branches' own last layers, or what maps them to the common width
    assert any(layer.name.startswith(("fusion.mapped", "fusion.attention", "encoders.other.project")) for layer in found.layers)


def test_a_scalar_gate_keeps_its_rows_and_prunes_what_it_weighs(halved):
    found, proof = halved(model_of({"image": ("image", {"cnn": {}}), "other": ("sound", {"lstm": {}})}, {"gated": {"width": 24}}))
    assert proof.error < 1e-5
    assert {layer.name: layer.width for layer in found.layers}["fusion.mapped.layers.image"] == 24
    assert [whole.name for whole in found.whole if "softmax" in whole.reason] == ["fusion.gate"]


@pytest.mark.parametrize("head", ["classification", "multilabel", "regression"])
def test_a_heads_hidden_layer_goes_and_its_output_stays(head, halved):
    task = {"classification": KIND["kind"], "multilabel": {**KIND["kind"], "task": "multilabel"}, "regression": {"task": "regression"}}[
        head
    ]
    heads = {"heads": {"kind": {head: {"hidden": 16}}}}
    found, _ = halved(model_of({"image": ("image", {"cnn": {}})}, {"concat": {}}, {"kind": task}, **heads))
    assert {layer.name: layer.branch for layer in found.layers}["heads.kind.layers.0"] == "head:kind" or found.layers[-1].branch == "image"
    assert not any(layer.name == "heads.kind.layers.3" for layer in found.layers)


@pytest.mark.parametrize("name", TINY)
def test_a_hugging_face_backbone(name, halved):
    kind = "text" if name in ("bert", "clip_text") else "image"
    encoder = {f"hf_{'text' if kind == 'text' else 'vision'}": {"config": TINY[name], "width": 24}}
    found, proof = halved(model_of({"x": (kind, encoder), "motion": ("motion", {"mlp": {"width": 24}})}, {"product": {"width": 24}}))
    assert proof.error < 1e-5
    widths = sorted(layer.width for layer in found.layers if layer.name.startswith("encoders.x.backbone"))
    assert widths == ([4, 4, 8, 8, 8, 16, 32] if name == "resnet" else [4, 48]), widths
    assert name == "resnet" or any(LN in whole.reason for whole in found.whole)
