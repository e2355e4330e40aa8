"""Model card + weights -> FusedModel, and back. Nothing that can run code is opened, except the factory the card names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from edgemm.contracts import card, plugins, user_code
from edgemm.contracts.card import Card
from edgemm.contracts.libraries import quiet_imports
from edgemm.errors import CheckpointError
from edgemm.store.artifact import folder_in_one_step
from edgemm.workshop.models.checkpoint import files
from edgemm.workshop.models.checkpoint.files import WEIGHTS
from edgemm.workshop.models.checkpoint.weights import fit, read_state, write_state
from edgemm.workshop.models.fused import FusedModel


def load_model(card: Card, *, weights: bool = True) -> FusedModel:
    """Build the card's model, on the CPU and in eval mode.

    Args:
        weights: False builds it with fresh weights (structure changes under ``applied`` are made all the same).

    Raises:
        CardError: The factory cannot be found or called, or what it builds does not go with the card.
        CheckpointError: Its code failed, or the weights are missing, damaged, unsafe or do not fit.
    """
    if card.model:
        return _opened(card)
    model = FusedModel(card, build_module(card, weights=weights))
    for entry in card.applied:
        for step, record in entry.items():
            model = plugins.import_plugin("steps", step).restore(model, _record(card.folder / record))
    path = card.weights_path
    if weights and path is not None and not (path.is_dir() and user_code.kind(card) == "hf"):
        fit(model.module, read_state(path), path)
    return model.eval()


def save_model(model: FusedModel, folder: Path) -> Card:
    """Make ``folder`` a checkpoint: model.yaml, weights.safetensors, and copies of the tokenizers and records it needs, in one step.

    The card written loads from anywhere as long as the factory's source stays where it is.

    Raises:
        OutputError: The place cannot be written.
        CheckpointError: The model cannot be saved as weights beside a factory.
    """
    with folder_in_one_step(folder) as scratch:
        write_model(model, scratch, folder)
    return card.load(folder)


def write_model(model: FusedModel, scratch: Path, final: Path) -> None:
    """Write a checkpoint's files into ``scratch``, a folder that will be renamed to ``final``.

    Raises:
        CheckpointError: As ``save_model``.
    """
    card = model.card
    if card.model:
        raise CheckpointError(
            f"a model opened from '{card.model}' has no factory to save weights for.",
            fix="copy the file itself, or give a card with factory and weights.",
        )
    write_state(model.module, scratch / WEIGHTS)
    files.write(card, scratch, final)


@quiet_imports()
def build_module(card: Card, *, weights: bool = True) -> nn.Module:
    """What the card's factory builds, as it is; of the weights only those of a Hugging Face folder are in it.

    Raises:
        CardError, CheckpointError: As ``load_model``.
    """
    kind = user_code.kind(card)
    if kind == "shipped":
        from edgemm.workshop.models.build import build  # the reference models' plugins are of no use to a user's own factory

        return build(card)
    if kind == "hf":
        from edgemm.workshop.models.checkpoint import huggingface  # transformers takes seconds to import

        return huggingface.build(card, weights=weights)
    module = user_code.call(card)
    if not isinstance(module, nn.Module):
        raise CheckpointError(
            f"factory '{card.factory}' returned {type(module).__name__}, not a torch.nn.Module.",
            fix="let it build the model and return it.",
        )
    return module


def _opened(card: Card) -> FusedModel:
    path = card.model_path
    assert path is not None  # the caller looked
    if path.suffix == ".pt2":
        from edgemm.workshop.models.checkpoint.pt2 import load_exported  # pulls in the compiler's part of torch

        return FusedModel(card, load_exported(path)).eval()
    raise CheckpointError(
        f"'{path}' is not a PyTorch model.",
        why="this command works on a torch module; an ONNX file has none.",
        fix="use the graph steps (quantize, compile, benchmark), or give a card with factory and weights.",
    )


def _record(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointError(
            f"cannot read '{path}', which the card's `applied:` names.",
            why=f"{err}.",
            fix="copy it beside the card, or write the model again with the step that made it.",
        ) from err
