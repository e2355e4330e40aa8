"""A Hugging Face folder read for what a card must say: inputs, labels, what builds it. JSON only, no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemm.contracts.card import Card, Input, Output
from edgemm.workshop.models.foreign import reading
from edgemm.workshop.models.hf_folder import IMAGE_SIZE, TOKENIZER, TOKENS, Folder, Side, family_of, require_family, text_side

SHORTEST = "shortest_edge"
TOWERS = "models:image-text-two-tower"
"""The reference model of towers that never meet; a card's own encoders go over its."""


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of a model by Hugging Face, open_clip or timm, without a card of ours."""
    return reading.is_folder(path) and not (path / "model.yaml").is_file()


def read(folder: Path, weights: str, words: tuple[str, tuple[str, ...]] | None = None, *, with_text: bool = False) -> Card:
    """A card for the folder.

    Of a classifier the only output, ``logits``, has the labels that the configuration knows; any other model is a tower, or several, and
    answers with the vector of each.

    Args:
        weights: How the card shall name the folder.
        words: A file of words as the card shall name it, and the words: the model's answer is which of them a picture, sound or text is.
        with_text: The model answers with its vector too, and the text tower goes along: new words while it runs.

    Raises:
        CardError: The configuration cannot be read, the model is of no known type, or something that prepares its inputs is missing.
    """
    source = Folder(folder, weights)
    purpose = _purpose(source.config)
    if words:
        return _zero_shot(source, *words, with_text=with_text)
    return _classifier(source, purpose) if purpose.endswith("Classification") else _towers(source)


def _purpose(config: dict[str, Any]) -> str:
    return str(next(iter(config.get("architectures") or []), "")).partition("For")[2]


def _towers(source: Folder) -> Card:
    sides = require_family(source).sides(source)
    inputs = {name: Input(name, side.modality, side.options) for name, side in sides.items()}
    names = {name: f"{name}_vector" for name in sides}
    pairs = dict(zip(names.values(), reversed(names.values()), strict=True)) if len(names) == 2 else {}
    outputs = {vector: Output(vector, "embedding", {"pair": pairs[vector]} if pairs else {}) for vector in names.values()}
    kwargs = {"encoders": {name: {"hf": source.named} for name in sides}, "heads": {"embedding": {"embedding": {"size": None}}}}
    return Card(inputs=inputs, outputs=outputs, factory=TOWERS, kwargs=kwargs)


def _zero_shot(source: Folder, file: str, labels: tuple[str, ...], *, with_text: bool) -> Card:
    family = require_family(source)
    sides = family.sides(source)
    text_side(source)
    name, side = next(((name, side) for name, side in sides.items() if side.modality != "text"), ("text", next(iter(sides.values()))))
    kwargs: dict[str, Any] = {"encoders": {name: {"hf": source.named}}, "heads": {"word": {"words": {"path": source.named, "file": file}}}}
    options = {"labels": labels} | ({"each": True} if family.bias else {})
    outputs = {"word": Output("word", "words", options)}
    if with_text:
        vector = f"{name}_vector"
        outputs = {"word": Output("word", "words", {**options, "vector": vector}), vector: Output(vector, "embedding")}
        kwargs["heads"]["embedding"] = {"embedding": {"size": None}}
        kwargs["fusion"] = {"towers": {"branches": dict.fromkeys(outputs, name)}}
    return Card(inputs={name: Input(name, side.modality, side.options)}, outputs=outputs, factory=TOWERS, kwargs=kwargs)


def text_card(card: Card, folder: str) -> Card:
    """The text tower of ``folder``, which is named as seen from ``card``, as a card of its own: a text in, its vector out."""
    side = text_side(Folder(card.folder / folder, folder))
    kwargs = {"encoders": {"text": {"hf": folder}}, "heads": {"vector": {"embedding": {"size": None}}}}
    inputs, outputs = {"text": Input("text", "text", side.options)}, {"vector": Output("vector", "embedding")}
    return Card(inputs=inputs, outputs=outputs, factory=TOWERS, kwargs=kwargs, path=card.path)


def _classifier(source: Folder, purpose: str) -> Card:
    config = source.config
    names = config.get("id2label") or {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    family = family_of(source) if source.processor else None
    side = next((side for side in family.sides(source).values() if side.modality != "text"), None) if family else None
    text = (source.path / TOKENIZER).is_file() or "vocab_size" in config
    if side is not None:
        given = _input(side)
        purpose = "AudioClassification" if side.modality == "audio" else purpose
    else:
        given = _text(source) if text else _image(config, source.processor)
    task = "multilabel" if config.get("problem_type") == "multi_label_classification" else "classification"
    output = Output("logits", task, {"labels": labels}) if labels else Output("logits", "tensor")
    return Card(inputs={given.name: given}, outputs={"logits": output}, factory=f"hf:AutoModelFor{purpose}", weights=source.named)


def _input(side: Side) -> Input:
    return Input(side.modality, side.modality, side.options)


def _image(config: dict[str, Any], pictures: dict[str, Any]) -> Input:
    size = pictures.get("crop_size") or pictures.get("size") or config.get("image_size") or IMAGE_SIZE
    if isinstance(size, dict):
        size = [size.get("height", size.get(SHORTEST, IMAGE_SIZE)), size.get("width", size.get(SHORTEST, IMAGE_SIZE))]
    height, width = size if isinstance(size, list) else (size, size)
    options: dict[str, Any] = {"height": height, "width": width, "channels": config.get("num_channels", 3)}
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in pictures:
            options[ours] = pictures[theirs]
    return Input("image", "image", options)


def _text(source: Folder) -> Input:
    options: dict[str, Any] = {"length": min(TOKENS, int(source.config.get("max_position_embeddings", TOKENS))), "mask": True}
    if (source.path / TOKENIZER).is_file():
        return Input("text", "text", options | {"tokenizer": f"{source.named}/{TOKENIZER}"})
    return Input("text", "text", options | {"vocab": int(source.config["vocab_size"])})
