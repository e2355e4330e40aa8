"""What a card's model is, as plain facts for cache keys, found without importing torch or the factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemm.contracts import user_code
from edgemm.contracts.card import Card
from edgemm.contracts.card_file import SHIPPED
from edgemm.contracts.member_cards import member_cards
from edgemm.errors import CheckpointError
from edgemm.store import cache

WEIGHT_FILES = (".safetensors", ".json")  # what of a Hugging Face folder a model is made of


def identity(card: Card) -> dict[str, Any]:
    """Everything that determines the model: the card, and the content of every file it leads to.

    Raises:
        CardError: The factory's module cannot be found.
        CheckpointError: A file the card names is missing or unreadable.
    """
    facts: dict[str, Any] = {"card": card.to_dict() | {"source": None}}
    for key, path in (("weights", card.weights_path), ("model", card.model_path)):
        if path is not None:
            facts[key] = _content(path)
    if card.branch_weights:
        facts["branches"] = {name: _content(card.folder / file) for name, file in card.branch_weights.items()}
    if card.factory:
        facts["factory"] = _factory_facts(card)
    facts["files"] = {str(value): _content(card.folder / value) for value in _named_files(card)}
    return facts


def _factory_facts(card: Card) -> dict[str, Any]:
    match user_code.kind(card):
        case "members":
            return {name: identity(member) for name, (member, _) in member_cards(card).items()}
        case "shipped":  # edgemm's own code is in every stage's key already
            name = card.factory.partition(":")[2] if card.factory else ""
            return {name: (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")}
        case "hf":
            return {"transformers": cache.version("transformers")}
    return user_code.source_facts(card)


def _named_files(card: Card) -> list[str]:
    """Files that the card names by a path relative to it: tokenizers, records of applied steps, configurations among the kwargs."""
    named = [str(card.inputs[name].options["tokenizer"]) for name in card.tokenizers()]
    named += [record for entry in card.applied for record in entry.values()]
    return named + sorted({value for value in _strings(card.kwargs) if user_code.leads_to_a_file(card.folder, value)})


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for entry in value.values() for text in _strings(entry)]
    return [text for entry in value for text in _strings(entry)] if isinstance(value, (list, tuple)) else []


def _content(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        return cache.file_facts(path)
    files = sorted(file for file in [*path.iterdir(), *path.glob("*/*")] if file.suffix in WEIGHT_FILES)
    if not files:
        raise CheckpointError(
            f"the folder '{path}' holds no weights.", fix="a Hugging Face folder has config.json and *.safetensors in it."
        )
    return {file.relative_to(path).as_posix(): cache.file_facts(file) for file in files}
