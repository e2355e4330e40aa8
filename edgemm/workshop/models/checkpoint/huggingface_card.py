"""A Hugging Face folder read for what a card must say: inputs, labels, the class that builds it. JSON only, no transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemm.contracts.card import Card, Input, Output
from edgemm.errors import CardError
from edgemm.store import json_text

TOKENS = 128  # length of a text where the model could take more; edit the card for longer ones
IMAGE_SIZE, SHORTEST = 224, "shortest_edge"


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a Hugging Face model folder without a card of ours."""
    return (path / "config.json").is_file() and not (path / "model.yaml").is_file()


def read(folder: Path, weights: str) -> Card:
    """A card for the folder; its only output, ``logits``, has the labels that the configuration knows.

    Args:
        weights: How the card shall name the folder.

    Raises:
        CardError: The configuration cannot be read, or says not what kind of model it is.
    """
    config, pictures = _json(folder / "config.json"), _json(folder / "preprocessor_config.json", missing={})
    auto = _auto_class(folder, config)
    names = config.get("id2label") or {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    text = (folder / "tokenizer.json").is_file() or "vocab_size" in config
    inputs = {"text": _text(folder, config, weights)} if text else {"image": _image(config, pictures)}
    task = "multilabel" if config.get("problem_type") == "multi_label_classification" else "classification"
    output = Output("logits", task, {"labels": labels}) if labels else Output("logits", "tensor")
    return Card(inputs=inputs, outputs={"logits": output}, factory=f"hf:{auto}", weights=weights)


def _auto_class(folder: Path, config: dict[str, Any]) -> str:
    architecture = next(iter(config.get("architectures") or []), "")
    _, separator, purpose = architecture.partition("For")
    if not separator or not purpose.endswith("Classification"):
        raise CardError(
            f"'{folder}': cannot draft a card for '{architecture or 'an unnamed architecture'}'.",
            why="only models for classification say in their configuration what they take and return.",
            fix="write the card by hand: factory hf:AutoModel..., weights: <this folder>, its inputs and outputs.",
        )
    return f"AutoModelFor{purpose}"


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


def _text(folder: Path, config: dict[str, Any], weights: str) -> Input:
    options: dict[str, Any] = {"length": min(TOKENS, int(config.get("max_position_embeddings", TOKENS))), "mask": True}
    if (folder / "tokenizer.json").is_file():
        return Input("text", "text", options | {"tokenizer": f"{weights}/tokenizer.json"})
    return Input("text", "text", options | {"vocab": int(config["vocab_size"])})


def _json(path: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not path.is_file():
        return missing
    try:
        content = json_text.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CardError(f"cannot read '{path}'.", why=f"{err}.", fix="copy the model's folder again.") from err
    return content if isinstance(content, dict) else {}
