"""The cards of the members that stand among the kwargs of a fused card."""

from __future__ import annotations

from pathlib import Path

from edgemm.contracts import card_file
from edgemm.contracts.card import Card
from edgemm.errors import CardError


def member_cards(card: Card) -> dict[str, tuple[Card, dict[str, str]]]:
    """Member -> its own card, its inputs as the fused card has them, and under which names those stand there.

    Raises:
        CardError: What stands under ``kwargs.members`` is no card.
    """
    cards: dict[str, tuple[Card, dict[str, str]]] = {}
    for name, plain in card.kwargs["members"].items():
        inputs = {str(own): str(fused) for own, fused in plain["inputs"].items()}
        if missing := [fused for fused in inputs.values() if fused not in card.inputs]:
            raise CardError(f"kwargs.members.{name} takes '{missing[0]}', which is no input of the card.", fix="write it with edgemm fuse.")
        fused = card.to_dict()["inputs"]
        own = {**plain, "inputs": {mine: fused[theirs] for mine, theirs in inputs.items()}}
        member = card_file.parse(own, path=card.path or Path.cwd() / "model.yaml")
        cards[str(name)] = member, inputs
    return cards
