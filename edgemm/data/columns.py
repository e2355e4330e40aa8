"""Which column of a dataset an input or output is read from."""

from __future__ import annotations

from collections.abc import Collection

from edgemm.contracts.card import Card


def as_named_in(card: Card, there: Collection[str]) -> Card:
    """The card for data of these columns: what it maps to a column that is absent is read from one of its own name, where there is one.

    A manifest is written by people and calls things as they do; an npz or a function is often keyed by the model's own names. A name
    that the card maps elsewhere is never taken for another's column.
    """
    kept = {
        column: name
        for column, name in card.columns.items()
        if column in there or name not in there or card.columns.get(name, name) != name
    }
    return card if len(kept) == len(card.columns) else card.replace(columns=kept)
