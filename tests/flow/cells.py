"""Small models that together hold every encoder, fusion and head, rows with something to learn in them, and how close two answers are.

A model joins parts that no other joins, so that pairs are covered, not only parts.
"""

import numpy as np
import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Card
from edgemm.contracts.modality import modalities
from edgemm.workshop.models.build import build
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import sample_inputs

IMAGE = {"modality": "image", "height": 32, "width": 32, "channels": 3, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
AUDIO = {"modality": "audio", "rate_hz": 8000, "seconds": 0.5, "features": {"log_mel": {"mels": 16, "hop_ms": 16, "normalize": "clip"}}}
TEXT = {"modality": "text", "vocab": 40, "length": 8}
SENSOR = {"modality": "sensor", "shape": [24, 4], "rate_hz": 50}
NUMBERS = {"modality": "sensor", "shape": [5], "rate_hz": 1}
LABEL = {"task": "classification", "labels": ["a", "b", "c"]}
TAGS = {"task": "multilabel", "labels": ["a", "b"]}
LEVEL = {"task": "regression"}
TINY = {"channels": [8, 16], "width": 16}
TEXT_TINY = {"embedding": 16, "width": 16}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {"model_type": "bert", "vocab_size": 40, "max_position_embeddings": 8, **SMALL}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **SMALL}

MATRIX = {
    "camera and microphone, scalar gate": (
        {"image": (IMAGE, {"cnn": TINY}), "audio": (AUDIO, {"conv_gru": {**TINY, "hidden": 16}})},
        {"gated": {"gate": "scalar", "width": 16}},
        {"event": LABEL, "level": LEVEL},
    ),
    "picture and words side by side": (
        {"image": (IMAGE, {"residual_cnn": TINY}), "text": (TEXT, {"text_lstm": {**TEXT_TINY, "hidden": 16}})},
        {"concat": {"width": 16}},
        {"label": LABEL},
    ),
    "picture, words and motion, weighted": (
        {
            "image": (IMAGE, {"depthwise_cnn": TINY}),
            "text": ({**TEXT, "mask": True}, {"bag": {**TEXT_TINY, "hidden": 16}}),
            "motion": (SENSOR, {"tcn": {"channels": 16, "blocks": 2, "width": 16}}),
        },
        {"weighted": {}},
        {"tags": TAGS, "level": LEVEL},
    ),
    "two towers": (
        {
            "image": (IMAGE, {"vit": {**TEXT_TINY, "heads": 2}}),
            "text": ({**TEXT, "mask": True}, {"transformer": {**TEXT_TINY, "heads": 2}}),
        },
        {"towers": {}},
        {"image_vector": {"task": "embedding", "pair": "text_vector"}, "text_vector": {"task": "embedding"}},
    ),
    "Hugging Face backbones that look at each other": (
        {"image": (IMAGE, {"hf_vision": {"config": RESNET, "width": 16}}), "text": (TEXT, {"hf_text": {"config": BERT, "width": 16}})},
        {"cross_attention": {"width": 16, "heads": 2}},
        {"label": LABEL},
    ),
    "sound and readings as a graph": (
        {"audio": (AUDIO, {"lstm": {"hidden": 16, "width": 16}}), "climate": (NUMBERS, {"mlp": {"hidden": [16], "width": 16}})},
        {"graph": {"width": 16}},
        {"faults": TAGS},
    ),
    "picture times words": (
        {"image": (IMAGE, {"hf_vision": {"config": SIGLIP, "width": 16}}), "text": (TEXT, {"text_cnn": {**TEXT_TINY, "channels": 16}})},
        {"product": {"width": 16, "beside": True}},
        {"answer": LABEL},
    ),
    "sound as a picture, and motion, mapped": (
        {"audio": (AUDIO, {"depthwise_cnn": TINY}), "motion": (SENSOR, {"conv_gru": {**TINY, "hidden": 16, "bidirectional": True}})},
        {"mlp": {"map_width": 16, "hidden": [16]}},
        {"event": LABEL, "tags": TAGS},
    ),
    "changes over four steps": (
        {
            "image": ({**IMAGE, "steps": 4}, {"cnn": TINY}),
            "audio": ({**AUDIO, "steps": 4}, {"cnn": TINY}),
            "text": (TEXT, {"bag": {"width": 16}}),
        },
        {"average": {}},
        {"change": {**LABEL, "per_step": True}, "level": {**LEVEL, "per_step": True}, "event": LABEL},
    ),
    "vector gate": (
        {"image": (IMAGE, {"vit": {**TEXT_TINY, "heads": 2}}), "motion": (SENSOR, {"lstm": {"hidden": 16, "width": 16}})},
        {"gated": {"gate": "vector", "width": 16}},
        {"label": LABEL},
    ),
}
HEADS = {"changes over four steps": {"change": {"change": {"hidden": 16}}}}

KINDS = 3  # what a row shows; every input tells it, every output can be told from it


def make(name: str) -> FusedModel:
    """The model of this row of ``MATRIX``, seeded, in eval mode, its batch norms with statistics of their own."""
    inputs, fusion, outputs = MATRIX[name]
    kwargs = {"encoders": {key: choice for key, (_, choice) in inputs.items()}, "fusion": fusion, "heads": HEADS.get(name, {})}
    described = {key: dict(spec) for key, (spec, _) in inputs.items()}
    card = cards.parse({"factory": "models:digits", "kwargs": kwargs, "inputs": described, "outputs": outputs})
    torch.manual_seed(0)
    model = FusedModel(card, build(card))
    model.train()
    with torch.no_grad():
        for seed in range(5):
            model(sample_inputs(card, batch=8, seed=seed))
    return model.eval()


def rows(card: Card, count: int, seed: int) -> dict[str, np.ndarray]:
    """Labelled rows as ``<split>.npz`` holds them: raw inputs in which the kind of the row (of each step) can be seen, and targets."""
    rng = np.random.default_rng(seed)
    steps = max((spec.steps or 1 for spec in card.inputs.values()), default=1)
    kinds = rng.integers(KINDS, size=(count, steps))
    arrays = {}
    for name, part in modalities(card).items():
        many = card.inputs[name].steps
        shown = [[_showing(card.inputs[name].modality, part.synthetic(rng), kind) for kind in row[: many or 1]] for row in kinds]
        arrays[name] = np.stack([np.stack(row) if many else row[0] for row in shown])
    targets = {
        "classification": kinds,
        "multilabel": np.stack([kinds > 0, kinds > 1], axis=-1).astype(np.int64),
        "regression": (kinds + rng.normal(0, 0.1, kinds.shape)).astype(np.float32),
    }
    for name, output in card.outputs.items():
        if output.task in targets:
            arrays[name] = targets[output.task] if output.per_step else targets[output.task][:, 0]
    return arrays


def _showing(modality: str, sample: np.ndarray, kind: int) -> np.ndarray:
    """A synthetic sample from which the kind can be told: a colour, a tone, a word, a channel that is higher."""
    changed = sample.copy()
    match modality:
        case "image":
            changed[..., kind] = np.minimum(changed[..., kind].astype(int) + 80, 255)
        case "audio":
            changed += 0.3 * np.sin(0.25 * (kind + 1) * np.arange(len(changed))).astype(np.float32)
        case "text":
            changed[0] = 2 + kind
        case _:
            changed[..., kind] += 3
    return changed


def decibels(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, float]:
    """Output -> signal over error."""
    return {
        name: float(10 * np.log10(np.square(wanted[name]).mean() / max(np.square(wanted[name] - found[name]).mean(), 1e-12)))
        for name in wanted
    }
