"""A user's own ONNX file on its way in: constants of the card put in, the front-end put before it."""

from __future__ import annotations

from pathlib import Path

import onnx

from edgemm.card import Card
from edgemm.errors import CardError, nearest
from edgemm.graph import files, frontend

NODE_PREFIX = "frontend/"


def prepare(card: Card, out: Path) -> Path:
    """Write the graph that ``card.model`` means to ``out``.

    A graph that edgemm exported has its front-end already and stays as it is.

    Raises:
        CardError: The card's inputs or outputs are not the graph's.
        CheckpointError: The file cannot be read.
    """
    assert card.model_path is not None
    model = files.load(card.model_path)
    _check_outputs(model, card)
    if not any(node.name.startswith(NODE_PREFIX) for node in model.graph.node):
        model = frontend.prepend(model, card)
    return files.save(model, out)


def _check_outputs(model: onnx.ModelProto, card: Card) -> None:
    there = [value.name for value in model.graph.output]
    for name in card.outputs:
        if name not in there:
            raise CardError(
                f"outputs.{name} is no output of '{card.model}'.", why=f"the graph has {', '.join(there)}.", fix=nearest(name, there)
            )
