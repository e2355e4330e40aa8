"""The one training loop. ``train`` runs it with the tasks' own losses; ``distill`` and ``qat`` bring a loss of theirs."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.data.checking import require_agreement
from edgemm.data.in_memory import DecodedSplit, Splits, open_splits
from edgemm.errors import EdgemmError, TrainError
from edgemm.store import cache
from edgemm.workshop.models.checkpoint.loading import load_model, save_model
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training import loop_state
from edgemm.workshop.training.answers import Collected, answer, answers, evaluate, tensors
from edgemm.workshop.training.loop_state import LoopState
from edgemm.workshop.training.options import TrainOptions, learning_rate
from edgemm.workshop.training.task_losses import LossHook, TaskLosses, Tensors

CLIP_NORM = 1.0
Progress = Callable[[str, float], None]
Note = Callable[[str], None]


class Diverged(TrainError):
    """The loss or a gradient is no number; ``best_epoch`` is 0 where no epoch had ended yet.

    ``kept`` is the model with the best weights so far, where there are any.
    """

    best_epoch = 0
    kept: FusedModel | None = None

    def of(self, step: str, *, option: str = "learning_rate") -> Diverged:
        """The error with the step's name in front, after the weights of its best epoch were written beside the cache.

        Weights from before the first epoch are not written: they are those that the step was given.
        """
        why = self.why
        if self.kept is not None and self.best_epoch:
            folder = cache.root() / "last_good" / f"{step}-{self.kept.card.folder.name}"
            with contextlib.suppress(EdgemmError):  # a model that cannot be saved is still in ``kept``
                save_model(self.kept, folder)
                why = f"the training diverged; the best weights so far (epoch {self.best_epoch}) are in {folder}."
        error = Diverged(f"{step}: {self.what}", why=why, fix=f"lower {step}.{option}, or look for inputs of extreme size in the data.")
        error.best_epoch, error.kept = self.best_epoch, self.kept
        return error


@dataclass(frozen=True)
class Trained:
    """What came of it; the model itself holds the best weights.

    Attributes:
        curves: Series -> [[epoch, value], ...].
        metrics: Output -> its metrics on val, with the best weights.
        best_epoch: Counted from 1; 0 where the weights it started from were better than all that followed (``judge_start``).
        epochs: How many were trained.
        planned: How many there would have been without early stopping.
        is_main: False in all but the first process of a run of several; only the first writes files.
    """

    curves: dict[str, list[list[float]]]
    metrics: dict[str, dict[str, float | int | None]]
    best_epoch: int
    epochs: int
    planned: int
    is_main: bool = True

    @property
    def ended(self) -> str:
        """When it ended, and why, in words."""
        if self.epochs >= self.planned:
            return f"after all {self.planned} epochs"
        return f"after epoch {self.epochs} of {self.planned}: {self.epochs - self.best_epoch} without a better one on val"

    def facts(self) -> dict[str, Any]:
        """What a step tells of its training."""
        return {"best_epoch": self.best_epoch, "epochs": self.epochs, "ended": self.ended, "curves": self.curves}


def train_model(
    model: FusedModel,
    dataset: Dataset | Splits,
    *,
    options: TrainOptions | None = None,
    loss: LossHook | None = None,
    from_scratch: bool = False,
    judge_start: bool = False,
    state: Path | None = None,
    key: str = "",
    progress: Progress = lambda text, fraction: None,
    note: Note = lambda text: None,
) -> Trained:
    """Train ``model`` in place; it ends on the CPU, in eval mode, with the weights that were best on val.

    Args:
        dataset: Or its splits, already decoded.
        loss: Parts of the loss to minimise; None = each head's own (``TaskLosses``). Where it is a Module, its own parameters are trained
            too, and it is in train and eval mode as the model is.
        from_scratch: The weights are fresh: heads of measurements, in reference models, start at mean and deviation of their truth.
        judge_start: The weights it starts from are measured on val too, as epoch 0, and kept if no epoch is better. Not for weights that
            answer nothing yet, such as those of a model whose observers have seen no data.
        state: File that holds the run after every epoch. A run that finds its own there goes on from it, to the same result.
        key: What the run depends on; a state with another key is not used.

    Raises:
        Diverged: The loss is no number; ``model`` then holds the best weights so far.
        TrainError: An option out of range, no rows, no memory, or the model's code failed.
        DataError: A row cannot be read.
    """
    options = options or TrainOptions()
    options.check()
    splits = dataset if isinstance(dataset, Splits) else open_splits(dataset, progress=progress, note=note)
    if not splits.val.rows:
        note("there is no val split: the last epoch's weights are kept, and the curves lack val.")
    _require_agreement(model, splits.train)
    accelerator = _accelerator(options)
    torch.manual_seed(options.seed)
    if from_scratch:
        _start_at_mean(model, splits)
    losses = loss or TaskLosses(model.card, weights=options.loss_weights, deviations=splits.deviations)
    loop = _Loop(model, options, splits.train, splits.val, losses, accelerator, progress)
    loop.resume(state, key, note)
    try:
        if judge_start and not loop.state.epoch:
            loop.judge()
        loop.run(state, key)
    except Diverged as err:
        kept = loop.restore_best()
        err.kept = kept if loop.state.best else None
        raise
    return loop.finish()


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


class _Loop:
    """One run of the loop."""

    def __init__(
        self,
        model: FusedModel,
        options: TrainOptions,
        train: DecodedSplit,
        val: DecodedSplit,
        losses: LossHook,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.model, self.options, self.train, self.val = model, options, train, val
        self.losses, self.accelerator, self.progress = losses, accelerator, progress
        if isinstance(losses, nn.Module):
            losses.to(accelerator.device)
        self.steps = train.steps(options.batch_size)
        self.epochs = options.passes(self.steps)
        self.patience = options.patience_of(self.epochs)
        self.parameters = [*model.parameters(), *_own(losses).parameters()]
        optimizer = torch.optim.AdamW(_groups(model, _own(losses), options.weight_decay), lr=options.learning_rate)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.state = LoopState()

    def resume(self, path: Path | None, key: str, note: Note) -> None:
        """Go on from a state file, if it is this run's."""
        saved = loop_state.read(path, key, note)
        if saved is None:
            return
        self.state, parts = saved
        self.model.module.load_state_dict(parts["module"])
        _own(self.losses).load_state_dict(parts["loss"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.accelerator.scaler is not None and parts["scaler"]:
            self.accelerator.scaler.load_state_dict(parts["scaler"])
        note(f"resumed after epoch {self.state.epoch} of {self.epochs}.")

    def run(self, path: Path | None, key: str) -> None:
        """Train the epochs that are left."""
        while self.state.epoch < self.epochs and not self._gave_up():
            means = self._epoch(self.state.epoch)
            self.state.epoch += 1
            self.state.draw(means)
            self.judge()
            if path is not None and self.accelerator.is_main_process:
                loop_state.write(path, key, self.state, self._state_dicts())
            self.accelerator.wait_for_everyone()

    def finish(self) -> Trained:
        """Put the best weights back and score them."""
        model = self.restore_best()
        metrics = evaluate(model, self.val).measured() if self.val.rows else {}
        state = self.state
        return Trained(state.curves, metrics, state.best_epoch, state.epoch, self.epochs, is_main=self.accelerator.is_main_process)

    def restore_best(self) -> FusedModel:
        """The model as it was given, on the CPU, in eval mode, with the best weights so far."""
        model = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        if self.state.best:
            model.module.load_state_dict(self.state.best)
        self.accelerator.free_memory()
        return model.to("cpu").eval()

    def _gave_up(self) -> bool:
        return self.patience is not None and self.val.rows > 0 and self.state.epoch - self.state.best_epoch >= self.patience

    def _epoch(self, epoch: int) -> dict[str, float]:
        """One pass; returns what the curves show of it: the mean loss, its parts where it has several, and the learning rate."""
        torch.manual_seed((self.options.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index)
        self.wrapped.train()
        _own(self.losses).train()
        total, seen, parts = 0.0, 0, _Parts()
        for number, batch in enumerate(self._shares(epoch)):
            step = epoch * self.steps + number
            rate = learning_rate(self.options, step, self.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(batch, epoch, number, rate, parts)
            total, seen = total + loss * len(batch.rows), seen + len(batch.rows)
            done = (epoch + (number + 1) / self.steps) / self.epochs
            self.progress(f"epoch {epoch + 1}/{self.epochs}, loss {total / seen:.4f}", min(done, 1.0))
        return {"learning rate/learning rate": rate, "loss/train": total / seen, **parts.means()}

    def _shares(self, epoch: int) -> Iterator[Tensors]:
        """This process's share of every batch; a last batch of one row is left out (batch norm has no variance of one)."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for batch in self.train.batches(self.options.batch_size, shuffle=self.options.seed * 100_003 + epoch):
            rows = len(batch.rows) // world * world
            if rows // world > 1:
                yield tensors(batch, self.accelerator.device, slice(rank, rows, world))

    def _step(self, batch: Tensors, epoch: int, number: int, rate: float, parts: _Parts) -> float:
        outputs = answer(self.wrapped, batch)
        losses = self.losses(outputs, batch)
        loss = torch.stack(list(losses.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._stop(f"the loss is {value}", epoch, number, rate)
        several, number_in = self.options.accumulate, number % self.options.accumulate
        if not number_in:
            self.optimizer.zero_grad()
        self.accelerator.backward(loss / several)
        parts.add(losses, len(batch.rows))
        if number_in + 1 < several and number + 1 < self.steps:
            return value
        norm = self.accelerator.clip_grad_norm_(self.parameters, CLIP_NORM)
        if self.accelerator.scaler is None and norm is not None and not math.isfinite(float(norm)):
            self._stop("the gradient is not finite", epoch, number, rate)  # under fp16 the scaler skips such a step
        self.optimizer.step()
        return value

    def _stop(self, what: str, epoch: int, number: int, rate: float) -> NoReturn:
        kept = "the weights it started from are kept" if self.state.best else "no epoch had ended yet"
        if self.state.best_epoch:
            kept = f"the best weights so far (epoch {self.state.best_epoch}) are kept"
        error = Diverged(
            f"{what} at step {number + 1} of epoch {epoch + 1}, learning rate {rate:.3g}.",
            why=f"the training diverged; {kept}.",
            fix="lower the learning rate, or look for inputs of extreme size in the data.",
        )
        error.best_epoch = self.state.best_epoch
        raise error

    def judge(self) -> None:
        """Measure on val and keep the weights if they are the best yet."""
        verdicts = [self._val()] if self.accelerator.is_main_process else [None]
        loss, goodness, shown = broadcast_object_list(verdicts)[0]
        self.state.draw(shown)
        if not self.val.rows or (goodness, -loss) > self.state.best_score:
            self.state.best_epoch, self.state.best_score = self.state.epoch, (goodness, -loss)
            self.state.best = {name: value.detach().cpu().clone() for name, value in self.model.module.state_dict().items()}

    def _val(self) -> tuple[float, float, dict[str, float]]:
        """Loss on val, goodness (mean of the heads' guarded metrics), and what the curves show."""
        if not self.val.rows:
            return 0.0, 0.0, {}
        total, collected = 0.0, Collected(self.model.card)
        _own(self.losses).eval()
        device, autocast = self.accelerator.device, self.accelerator.autocast
        for batch, outputs in answers(self.model, self.val, device=device, autocast=autocast):
            with torch.inference_mode():
                total += float(torch.stack(list(self.losses(outputs, batch).values())).sum()) * len(batch.rows)
            collected.add(batch, outputs)
        loss = total / self.val.rows
        if not math.isfinite(loss):
            rate = self.optimizer.param_groups[0]["lr"]
            self._stop(f"the loss on val is {loss}", max(0, self.state.epoch - 1), self.steps - 1 if self.state.epoch else -1, rate)
        goods, shown = [], {"loss/val": loss}
        for name, statistics in collected.answered().statistics().items():
            score = statistics.score()
            goods.append(statistics.goodness())
            shown[f"{name} {score.name}/val"] = score.value
        return loss, float(np.mean(goods)) if goods else -loss, shown

    def _state_dicts(self) -> dict[str, Any]:
        """What a state file holds beside ``state``."""
        scaler = self.accelerator.scaler
        return {
            "module": self.model.module.state_dict(),
            "loss": _own(self.losses).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }


class _Parts:
    """Means over an epoch of the parts of a loss that has several; no part is moved off its device before the end."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._rows: dict[str, int] = {}

    def add(self, parts: Mapping[str, torch.Tensor], rows: int) -> None:
        for name, part in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.detach() * rows
            self._rows[name] = self._rows.get(name, 0) + rows

    def means(self) -> dict[str, float]:
        if len(self._sums) < 2:
            return {}
        return {f"parts of the loss/{name}": float(total) / self._rows[name] for name, total in self._sums.items()}


def _own(losses: LossHook) -> nn.Module:
    """The loss where it is a module with parameters of its own; else one without any."""
    return losses if isinstance(losses, nn.Module) else nn.Module()


def _groups(model: FusedModel, own: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters of the model and the loss with weight decay, and those without: biases and norms."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainError("the model has no trainable parameters.", fix="check what the factory builds, and its requires_grad.")
    trainable += own.parameters()
    decayed = [parameter for parameter in trainable if parameter.dim() > 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]


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
