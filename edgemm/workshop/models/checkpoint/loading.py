"""Model card + weights -> FusedModel, and back. Nothing that can run code is opened, except the factory the card names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from edgemm.contracts import card_file, plugins, user_code
from edgemm.contracts.card import Card
from edgemm.contracts.libraries import quiet_imports
from edgemm.errors import CheckpointError
from edgemm.store import json_text
from edgemm.store.artifact import folder_in_one_step
from edgemm.workshop.models import folding
from edgemm.workshop.models.checkpoint import branches, files, randomness, soundness
from edgemm.workshop.models.checkpoint.files import WEIGHTS
from edgemm.workshop.models.checkpoint.fitting import fit
from edgemm.workshop.models.checkpoint.weights import read_states, write_state
from edgemm.workshop.models.fused import FusedModel


def load_model(
    card: Card, *, weights: bool = True, seed: int | None = 0, fold: bool = True, note: Callable[[str], None] = lambda text: None
) -> FusedModel:
    """Build the card's model, on the CPU, in float32 and in eval mode.

    Args:
        weights: False builds it with fresh weights (structure changes under ``applied`` are made all the same).
        seed: What a factory draws at random, where no weights replace it, is drawn from this, so that every stage of a run has the same
            model; None = from the random state as it is.
        fold: Make weights that are computed at every call (weight norm, spectral norm) plain ones. False leaves them where their
            checkpoint has them, for training.
        note: Told which weights of several in the file were taken, what of it was left out, and of another type than float32.

    Raises:
        CardError: The factory cannot be found or called, or what it builds does not go with the card.
        CheckpointError: Its code failed, or the weights are missing, damaged, unsafe, not finite or do not fit.
        ExportError: The model answers otherwise with plain weights.
    """
    name = card.weights or card.model or card.factory or ""
    if card.model:
        model = _opened(card)
        soundness.widen(model.module, name, note)
        soundness.require_finite(model.module, name)
        return model
    model = FusedModel(card, build_module(card, weights=weights, seed=None if weights and card.weights else seed, note=note))
    path = card.weights_path if weights and not _is_hugging_face_folder(card) else None
    states = {} if path is None else read_states(path)
    if folding.is_computed(model.module) and (card.applied or _are_of_folded(model, states)):
        folding.fold(model.module)  # what was saved is plain
    for entry in card.applied:
        for step, record in entry.items():
            model = plugins.import_plugin("steps", step).restore(model, _record(card.folder / record))
    if path is not None:
        for words in fit(model.module, states, path, key=card.weights_key):
            note(words)
    soundness.require_finite(model.module, name)
    return folding.folded(model.eval()) if fold else model.eval()


def _are_of_folded(model: FusedModel, states: Mapping[str, Mapping[str, Any]]) -> bool:
    return bool(states) and all(folding.is_state_of_folded(model.module, state) for state in states.values())


def save_model(model: FusedModel, folder: Path) -> Card:
    """Make ``folder`` a checkpoint: model.yaml, weights.safetensors, and copies of the tokenizers and records it needs, in one step.

    The card written loads from anywhere as long as the factory's source stays where it is.

    Raises:
        OutputError: The place cannot be written.
        CheckpointError: The model cannot be saved as weights beside a factory.
    """
    with folder_in_one_step(folder) as scratch:
        write_model(model, scratch, folder)
    return card_file.load(folder)


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


def build_module(
    card: Card, *, weights: bool = True, seed: int | None = None, note: Callable[[str], None] = lambda text: None
) -> nn.Module:
    """What the card's factory builds, in float32; of the weights only those of a Hugging Face folder are in it.

    Args:
        seed: As for ``load_model``; the random state is afterwards what it was.
        note: Told of another type than float32 that it was built in, and what of a Hugging Face folder was left out.

    Raises:
        CardError, CheckpointError: As ``load_model``.
    """
    with quiet_imports(), randomness.drawn_from(seed) as again:
        module = _built(card, weights, again)
        for words in dict.fromkeys(words for part in module.modules() for words in getattr(part, "notes_of_weights", ())):
            note(words)
        if card.branch_weights:
            branches.load(module, card, note)
    soundness.widen(module, str(card.weights if _is_hugging_face_folder(card) else card.factory), note)
    return module


def _built(card: Card, weights: bool, again: Callable[[], None]) -> nn.Module:
    kind = user_code.kind(card)
    if kind == "shipped":
        from edgemm.workshop.models.build import build  # the reference models' plugins are of no use to a user's own factory

        return build(card)
    if kind == "hf":
        from edgemm.workshop.models.checkpoint import huggingface  # transformers takes seconds to import

        return huggingface.build(card, weights=weights)
    if kind == "members":
        from edgemm.workshop.models import late  # of use to cards of members alone

        return late.build(card, lambda _, member: _member(member, again))
    module = user_code.call(card, imported=again)
    if not isinstance(module, nn.Module):
        raise CheckpointError(
            f"factory '{card.factory}' returned {type(module).__name__}, not a torch.nn.Module.",
            fix="let it build the model and return it.",
        )
    return module


def _member(card: Card, again: Callable[[], None]) -> FusedModel:
    """A member of a fused card, as its own steps left it; its weights are among those of the whole."""
    model = FusedModel(card, _built(card, weights=False, again=again))
    if folding.is_computed(model.module):
        folding.fold(model.module)
    for entry in card.applied:
        for step, record in entry.items():
            model = plugins.import_plugin("steps", step).restore(model, _record(card.folder / record))
    return model


def _is_hugging_face_folder(card: Card) -> bool:
    """Whether the weights are in a folder that the factory itself reads."""
    return card.weights_path is not None and card.weights_path.is_dir() and user_code.kind(card) == "hf"


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
        return json_text.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointError(
            f"cannot read '{path}', which the card's `applied:` names.",
            why=f"{err}.",
            fix="copy it beside the card, or write the model again with the step that made it.",
        ) from err
