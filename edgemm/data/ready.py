"""Data that were decoded on another machine: arrays that hold just what the graph takes, so that no package for files is needed here."""

from __future__ import annotations

from pathlib import Path

from edgemm.contracts.card import Card, Input
from edgemm.contracts.modality import input_specs

MARK = "decoded"
"""An empty file of this name beside ``<split>.npz`` says so."""


def is_ready(data: str | Path) -> bool:
    """Whether a dataset folder holds decoded arrays, named as the card's inputs and outputs."""
    return (Path(data) / MARK).is_file()


def taken_as_it_is(card: Card) -> Card:
    """The card with every input a plain tensor of the shape that the graph takes."""
    inputs = {spec.name: Input(spec.name, "tensor", {"dtype": spec.dtype, "shape": list(spec.shape)}) for spec in input_specs(card)}
    return card.replace(inputs=inputs, columns={})
