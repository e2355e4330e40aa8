"""The one training loop. ``train`` runs it with the tasks' own losses; ``distill`` and ``qat`` bring a loss of theirs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.data.augmenting import Augmenter
from edgemm.data.balanced import balanced
from edgemm.data.checking import require_agreement
from edgemm.data.in_memory import DecodedSplit, Splits, open_splits
from edgemm.errors import TrainError
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.answers import answers
from edgemm.workshop.training.class_weights import class_weights
from edgemm.workshop.training.options import TrainOptions
from edgemm.workshop.training.outcome import Diverged, Trained
from edgemm.workshop.training.running import Note, Progress, Run, Watch
from edgemm.workshop.training.task_losses import LossHook, TaskLosses


def train_model(
    model: FusedModel,
    dataset: Dataset | Splits,
    *,
    options: TrainOptions | None = None,
    loss: LossHook | None = None,
    augmenter: Augmenter | None = None,
    from_scratch: bool = False,
    judge_start: bool = False,
    is_scored: bool = True,
    state: Path | None = None,
    key: str = "",
    watch: Watch = lambda epoch, values: None,
    progress: Progress = lambda text, fraction: None,
    note: Note = lambda text: None,
) -> Trained:
    """Train ``model`` in place; it ends on the CPU, in eval mode, with the weights that were best on val.

    Args:
        dataset: Or its splits, already decoded.
        loss: Parts of the loss to minimise; None = each head's own (``TaskLosses``). Where it is a Module, its own parameters are trained
            too, and it is in train and eval mode as the model is.
        from_scratch: The weights are fresh: heads of measurements, in reference models, start at mean and deviation of their truth.
        augmenter: Changes the rows of train as they are learned from.
        judge_start: The weights it starts from are measured on val too, as epoch 0, and kept if no epoch is better. Not for weights that
            answer nothing yet, such as those of a model whose observers have seen no data.
        is_scored: Val is judged by what the outputs come to there; else by the loss alone, and there are no metrics.
        state: File that holds the run after every epoch. A run that finds its own there goes on from it, to the same result.
        key: What the run depends on; a state with another key is not used.
        watch: Told of every epoch what the curves show of it; of a resumed run those before are told again.

    Raises:
        Diverged: The loss is no number; ``model`` then holds the best weights so far.
        TrainError: An option out of range, no rows, no memory, or the model's code failed.
        DataError: A row cannot be read.
    """
    options = options or TrainOptions()
    options.check()
    splits = dataset if isinstance(dataset, Splits) else open_splits(dataset, progress=progress, note=note)
    _check_val(splits, options, note)
    if options.balance:
        splits = replace(splits, train=balanced(splits.train, options.balance))
    _require_agreement(model, splits.train)
    accelerator = _accelerator(options)
    torch.manual_seed(options.seed)
    if from_scratch:
        _start_at_mean(model, splits)
    losses = loss or _task_losses(model.card, splits, options)
    run = Run(model, options, splits, losses, accelerator, augmenter=augmenter, is_scored=is_scored, watch=watch, progress=progress)
    run.start(state, key, note)
    try:
        if judge_start and not run.state.epoch:
            run.judge()
        run.run(state, key)
    except Diverged as err:
        kept = run.restore_best()
        err.kept = kept if run.state.best else None
        raise
    return run.finish()


def _check_val(splits: Splits, options: TrainOptions, note: Note) -> None:
    """What a training lacks without val."""
    if splits.val.rows:
        return
    if options.chosen("schedule").name == "plateau":
        why = "it lowers the learning rate where val gets no better, and there is no val split."
        raise TrainError("schedule is plateau.", why=why, fix="add rows with split = val, or take another schedule.")
    note("there is no val split: the last epoch's weights are kept, and the curves lack val.")


def _task_losses(card: Card, splits: Splits, options: TrainOptions) -> TaskLosses:
    return TaskLosses(
        card, weights=options.loss_weights, deviations=splits.deviations, smoothing=options.label_smoothing,
        class_weights=class_weights(card, splits.train, options.class_weights),
    )  # fmt: skip


def _require_agreement(model: FusedModel, train: DecodedSplit) -> None:
    """Raises DataError where the model's answer to the first row is of another width than the truth there."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    _, answered = next(answers(model, train, batch_size=1, device=device))
    plain = {name: value.cpu().numpy() for name, value in answered.items()}
    require_agreement(train.dataset.card, train.dataset.name, plain, next(train.batches(1)))


def seeded_model(card: Card, *, seed: int, note: Callable[[str], None] = lambda text: None) -> FusedModel:
    """The card's model, to be trained; what its factory draws at random is drawn from ``seed``. ``note`` as ``load_model`` has it.

    Raises:
        CardError, CheckpointError: As ``load_model``.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return load_model(card, seed=None, note=note, fold=False)


def _accelerator(options: TrainOptions) -> Accelerator:
    """accelerate keeps one state per process: it is made anew where an earlier training in this process chose otherwise."""
    cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available())
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainError(f"device '{options.device}' is not here.", why="torch sees no CUDA device.", fix="use --device auto or cpu.")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return Accelerator(
            cpu=cpu, mixed_precision=options.mixed_precision, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
    except (ValueError, NotImplementedError) as err:
        raise TrainError(
            f"mixed precision '{options.mixed_precision}' does not work on this device.", why=f"{err}", fix="use --mixed-precision no."
        ) from err


def _start_at_mean(model: FusedModel, splits: Splits) -> None:
    """Set the last layer of every measurement's head so that it answers around the truth's mean, in its spread.

    AdamW moves a weight by about the learning rate a step: from 0 to 60 dB would take it 60,000 steps.
    """
    heads = getattr(model.module, "heads", None)
    for name, spread in splits.deviations.items():
        head = heads[name] if isinstance(heads, torch.nn.ModuleDict) and name in heads else torch.nn.Identity()
        linear = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
        if linear and linear[-1].bias is not None:
            with torch.no_grad():
                linear[-1].weight.mul_(spread)
                linear[-1].bias.mul_(spread).add_(splits.means[name])
