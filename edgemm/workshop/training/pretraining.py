"""Training without labels: the branches learn from rows alone, and the heads stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.data.augmenting import Augmenter
from edgemm.errors import TrainError
from edgemm.workshop.models.checkpoint import branch_files
from edgemm.workshop.models.checkpoint.loading import write_model
from edgemm.workshop.models.feature_taps import Ends, find_ends
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.branch_vectors import BranchVectors
from edgemm.workshop.training.contrast import Contrast
from edgemm.workshop.training.loop import train_model
from edgemm.workshop.training.options import Length, TrainOptions
from edgemm.workshop.training.outcome import Trained
from edgemm.workshop.training.reconstruction import HiddenInputs, Reconstruction
from edgemm.workshop.training.running import Note, Progress

Method = Literal["contrastive", "masked"]
BATCH = 128
"""A row is told from the others of its batch: twice as many as ``train`` takes."""
PRETRAIN = Length(20, 1600)
"""Digits, 5,000 rows: 40 passes."""
TAKEN = (
    "batch_size", "accumulate", "learning_rate", "optimizer", "schedule", "weight_decay", "patience", "average", "augment", "seed",
    "mixed_precision",
)  # fmt: skip
"""Options of a ``train`` section that are not about labels, nor about how long a training with them is."""


def options(section: Mapping[str, Any], **given: Any) -> TrainOptions:
    """How to pretrain: what of a ``train`` section is no matter of labels, and what is given."""
    taken = {"batch_size": BATCH} | {name: value for name, value in section.items() if name in TAKEN}
    return dataclasses.replace(TrainOptions.of(taken, **given), usual=PRETRAIN)


def unused(section: Mapping[str, Any]) -> list[str]:
    """What of the section says something, and nothing here."""
    return sorted(name for name, value in section.items() if name not in TAKEN and value)


def check(card: Card, method: Method) -> None:
    """What can be known without data or model.

    Raises:
        TrainError: ``method`` is none, or has nothing to compare.
    """
    if method not in ("contrastive", "masked"):
        raise TrainError(f"there is no method '{method}'.", fix="write contrastive or masked.")
    if method == "contrastive" and len(card.inputs) < 2:
        raise TrainError(
            f"contrastive pretraining compares the inputs of a row, and this card has one: {next(iter(card.inputs))}.",
            why="there is nothing to pair.",
            fix="take --method masked, which learns from one input too.",
        )


@dataclass(frozen=True)
class Pretrained:
    """A model whose branches were pretrained.

    Attributes:
        done: How it went; ``goodness`` is the loss on val with the best weights, negative.
        modules: What the card calls each submodule that was trained -> its name; {} where the model had weights before, and all are kept.
    """

    model: FusedModel
    done: Trained
    modules: dict[str, str]

    def write(self, scratch: Path, final: Path) -> None:
        """Write what ``train`` goes on from into ``scratch``, a folder that will be ``final``: the branches alone, or the whole model.

        Raises:
            CheckpointError: It cannot be saved.
        """
        if self.modules:
            branch_files.write(self.model, self.modules, scratch, final)
        else:
            write_model(self.model, scratch, final)


def pretrain_model(
    model: FusedModel,
    dataset: Dataset,
    method: Method,
    *,
    options: TrainOptions,
    augmenter: Augmenter | None,
    state: Path | None,
    key: str,
    progress: Progress,
    note: Note,
) -> Pretrained:
    """Train the branches of ``model`` in place on rows without truth, by the loss on val; heads and fusion keep their weights.

    Args:
        model: On the CPU, as ``loop.seeded_model`` made it.
        state, key: As of ``train_model``.

    Raises:
        TrainError: The branches cannot be listened to; as ``train_model``.
        CheckpointError: The branches' weights could not be written afterwards.
        DataError: A row cannot be read.
        ExportError: torch.export refuses the model.
    """
    ends, before = find_ends(model), {name: value.clone() for name, value in model.module.named_buffers()}
    modules = {} if model.card.weights else branch_files.own_modules(model, ends.parts, list(model.card.inputs))
    with ExitStack() as hooks:
        torch.manual_seed(options.seed)  # the first weights of projectors and decoders
        trained, loss = (_contrast if method == "contrastive" else _reconstruction)(model, ends, hooks, note)
        done = train_model(
            trained, dataset, options=options, loss=loss, augmenter=augmenter, is_scored=False, state=state, key=key, progress=progress,
            note=note,
        )  # fmt: skip
    _put_back(model, ends, before)
    return Pretrained(model.eval(), done, modules)


def _put_back(model: FusedModel, ends: Ends, before: Mapping[str, Tensor]) -> None:
    """Batch norms of fusion and heads saw rows go by: their statistics become what they were."""
    for path, module in model.module.named_modules():
        names = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        of = {ends.parts.of_parameter[name] for name in names if name in ends.parts.of_parameter}
        for name, buffer in module.named_buffers(recurse=False) if of and not of & set(model.card.inputs) else ():
            buffer.copy_(before[f"{path}.{name}" if path else name])


def _contrast(model: FusedModel, ends: Ends, hooks: ExitStack, note: Note) -> tuple[FusedModel, Contrast]:
    branches = _listening(model, ends, hooks, note)
    if len(branches.inputs) < 2:
        raise TrainError(
            f"contrastive pretraining can listen to {len(branches.inputs)} branch of this model.",
            why="of the others no submodule returns the end.",
            fix="compute the last layer of each branch in a submodule of its own, or take --method masked.",
        )
    return model, Contrast(branches)


def _reconstruction(model: FusedModel, ends: Ends, hooks: ExitStack, note: Note) -> tuple[FusedModel, Reconstruction]:
    hiding = HiddenInputs(model).eval()
    branches = _listening(hiding, ends, hooks, note)
    if not branches.inputs or not hiding.hidden.clean:
        why = "no submodule returns the end of a branch." if not branches.inputs else "its inputs are whole numbers that are no token ids."
        raise TrainError("masked pretraining finds nothing to learn in this model.", why=why, fix="train it with labels alone.")
    return hiding, Reconstruction(hiding, branches)


def _listening(model: FusedModel, ends: Ends, hooks: ExitStack, note: Note) -> BranchVectors:
    branches = BranchVectors(model, ends)
    hooks.callback(branches.close)
    for name in model.card.inputs:
        if name not in branches.inputs:
            note(f"'{name}' is not pretrained: no submodule returns the end of its branch, or it carries a state.")
    return branches
