"""The one training loop. ``train`` runs it with the tasks' own losses; ``distill`` and ``qat`` bring a loss of theirs."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from edgemm import metrics
from edgemm.artifact import write_bytes
from edgemm.card import Card
from edgemm.data import Dataset
from edgemm.decoded import Split, open_split
from edgemm.errors import TrainError
from edgemm.models.answers import Collected, answer, answers, evaluate, measured, tensors
from edgemm.models.fused import FusedModel
from edgemm.models.losses import LossHook, TaskLosses, Tensors

CLIP_NORM = 1.0
WARM_UP = 0.05  # of all steps, at most MAX_WARM_UP: enough for AdamW's second moments
MAX_WARM_UP = 500
LAST_SHARE = 0.01  # of the learning rate, at the end of the cosine
DROPS = (0.6, 0.85)  # of all steps: where schedule "step" divides the rate by ten
SEEN = 300_000  # rows to see in all, where epochs is None; see default_epochs
Progress = Callable[[str, float], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        epochs: Passes over the train split; None = ``default_epochs`` of its rows.
        patience: Stop after so many epochs without a better one on val; None = never.
        loss_weights: Output -> factor of its loss.
        device: auto, cpu, cuda, mps.
        mixed_precision: no, bf16, fp16.
    """

    epochs: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "step"] = "cosine"
    weight_decay: float = 0.01
    patience: int | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    def check(self) -> None:
        """Raises TrainError naming the first option that cannot be."""
        wrong = {
            "epochs": self.epochs is not None and self.epochs < 1,
            "batch_size": self.batch_size < 2,
            "learning_rate": not 0 < self.learning_rate < math.inf,
            "schedule": self.schedule not in ("cosine", "step"),
            "weight_decay": not 0 <= self.weight_decay < math.inf,
            "patience": self.patience is not None and self.patience < 1,
            "loss_weights": not all(0 <= weight < math.inf for weight in self.loss_weights.values()),
            "mixed_precision": self.mixed_precision not in ("no", "bf16", "fp16"),
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            raise TrainError(f"{name} is {getattr(self, name)!r}.", fix=RANGES[name])


RANGES = {
    "epochs": "write at least 1.",
    "batch_size": "write at least 2: batch norm and contrastive losses need other rows beside them.",
    "learning_rate": "write a number above 0, such as 0.001.",
    "schedule": "write cosine or step.",
    "weight_decay": "write a number of at least 0, such as 0.01.",
    "patience": "write at least 1 epoch, or leave it out.",
    "loss_weights": "write numbers of at least 0.",
    "mixed_precision": "write no, bf16 or fp16.",
}


@dataclass(frozen=True)
class Trained:
    """What came of it; the model itself holds the best weights.

    Attributes:
        curves: Series -> [[epoch, value], ...].
        metrics: Output -> torchmetrics' values on val, with the best weights.
        best_epoch: Counted from 1.
    """

    curves: dict[str, list[list[float]]]
    metrics: dict[str, dict[str, float | int | None]]
    best_epoch: int
    epochs: int


@dataclass
class _Run:
    """What a state file holds: where the run is, and the best so far."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    curves: dict[str, list[list[float]]] = field(default_factory=dict)


def default_epochs(rows: int) -> int:
    """Enough passes to see ``SEEN`` rows, at least 5 and at most 60."""
    return max(5, min(60, math.ceil(SEEN / max(rows, 1))))


def train_model(
    model: FusedModel,
    dataset: Dataset,
    *,
    plan: Plan = Plan(),
    loss: LossHook | None = None,
    state: Path | None = None,
    key: str = "",
    progress: Progress = lambda text, fraction: None,
    note: Note = lambda text: None,
) -> Trained:
    """Train ``model`` in place; it ends on the CPU, in eval mode, with the weights that were best on val.

    Args:
        loss: Parts of the loss to minimise; None = each head's own (``TaskLosses``).
        state: File that holds the run after every epoch. A run that finds its own there goes on from it, to the same result.
        key: What the run depends on; a state with another key is not used.

    Raises:
        TrainError: An option out of range, no rows, or a loss that is no number. ``state`` then still holds the best weights.
        DataError: A row cannot be read.
    """
    plan.check()
    train = open_split(dataset, "train", progress=progress, note=note)
    if train.rows < 2:
        raise TrainError(f"the train split has {train.rows} rows.", fix="give at least two rows with split = train.")
    val = open_split(dataset, "val", progress=progress, note=note)
    if not val.rows:
        note("there is no val split: the last epoch's weights are kept, and the curves lack val.")
    accelerator = _accelerator(plan)
    torch.manual_seed(plan.seed)
    losses = loss or TaskLosses(model.card, weights=plan.loss_weights, deviations=_deviations(model.card, train))
    loop = _Loop(model, plan, train, val, losses, accelerator, progress)
    loop.resume(state, key, note)
    loop.run(state, key)
    return loop.finish()


class _Loop:
    """One run of the loop."""

    def __init__(
        self, model: FusedModel, plan: Plan, train: Split, val: Split, losses: LossHook, accelerator: Accelerator, progress: Progress
    ) -> None:
        self.model, self.plan, self.train, self.val = model, plan, train, val
        self.losses, self.accelerator, self.progress = losses, accelerator, progress
        self.epochs = plan.epochs or default_epochs(train.rows)
        self.steps = max(1, train.rows // plan.batch_size + (train.rows % plan.batch_size > 1))
        optimizer = torch.optim.AdamW(_groups(model, plan.weight_decay), lr=plan.learning_rate)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.state = _Run()

    def resume(self, path: Path | None, key: str, note: Note) -> None:
        """Go on from a state file, if it is this run's."""
        if path is None or not path.is_file():
            return
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:
            note(f"{path} is damaged; the training starts anew.")
            return
        if saved["key"] != key:
            note(f"{path} belongs to a run with other options, data or code; the training starts anew.")
            return
        self.model.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler is not None and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        run = saved["run"]
        self.state = _Run(run["epoch"], run["best_epoch"], tuple(run["best_score"]), saved["best"], run["curves"])
        note(f"resumed after epoch {self.state.epoch} of {self.epochs}.")

    def run(self, path: Path | None, key: str) -> None:
        """Train the epochs that are left."""
        while self.state.epoch < self.epochs and not self._gave_up():
            loss = self._epoch(self.state.epoch)
            self.state.epoch += 1
            self._curve("train loss", loss)
            self._judge()
            if path is not None and self.accelerator.is_main_process:
                write_bytes(path, self._bytes(key))
            self.accelerator.wait_for_everyone()

    def finish(self) -> Trained:
        """Put the best weights back and score them."""
        model = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        model.module.load_state_dict(self.state.best)
        found = measured(model.card, evaluate(model, self.val)) if self.val.rows else {}
        model.to("cpu").eval()
        self.accelerator.free_memory()
        return Trained(self.state.curves, found, self.state.best_epoch, self.state.epoch)

    def _gave_up(self) -> bool:
        patience = self.plan.patience
        return patience is not None and self.val.rows > 0 and self.state.epoch - self.state.best_epoch >= patience

    def _epoch(self, epoch: int) -> float:
        """One pass; returns the mean loss."""
        torch.manual_seed((self.plan.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index)
        self.wrapped.train()
        total, seen = 0.0, 0
        for number, batch in enumerate(self._shares(epoch)):
            step = epoch * self.steps + number
            rate = learning_rate(self.plan, step, self.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(batch, epoch, number, rate)
            total, seen = total + loss * len(batch.rows), seen + len(batch.rows)
            done = (epoch + (number + 1) / self.steps) / self.epochs
            self.progress(f"epoch {epoch + 1}/{self.epochs}, loss {total / seen:.4f}", min(done, 1.0))
        self._curve("learning rate", rate)
        return total / seen

    def _shares(self, epoch: int) -> Iterator[Tensors]:
        """This process's share of every batch; a last batch of one row is left out (batch norm has no variance of one)."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for batch in self.train.batches(self.plan.batch_size, shuffle=self.plan.seed * 100_003 + epoch):
            rows = len(batch.rows) // world * world
            if rows // world > 1:
                yield tensors(batch, self.accelerator.device, slice(rank, rows, world))

    def _step(self, batch: Tensors, epoch: int, number: int, rate: float) -> float:
        outputs = answer(self.wrapped, batch)
        loss = torch.stack(list(self.losses(outputs, batch).values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._stop(f"the loss is {value}", epoch, number, rate)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        if self.accelerator.scaler is None and norm is not None and not math.isfinite(float(norm)):
            self._stop("the gradient is not finite", epoch, number, rate)  # under fp16 the scaler skips such a step
        self.optimizer.step()
        return value

    def _stop(self, what: str, epoch: int, number: int, rate: float) -> None:
        kept = f"the best weights so far (epoch {self.state.best_epoch}) are kept" if self.state.best_epoch else "no epoch had ended yet"
        raise TrainError(
            f"{what} at step {number + 1} of epoch {epoch + 1}, learning rate {rate:.3g}.",
            why=f"the training diverged; {kept}.",
            fix="lower the learning rate, or look for inputs of extreme size in the data.",
        )

    def _judge(self) -> None:
        """Measure on val and keep the weights if they are the best yet."""
        found = [self._val()] if self.accelerator.is_main_process else [None]
        loss, goodness, shown = broadcast_object_list(found)[0]  # type: ignore[misc]
        for name, value in shown.items():
            self._curve(name, value)
        if not self.val.rows or (goodness, -loss) > self.state.best_score:
            self.state.best_epoch, self.state.best_score = self.state.epoch, (goodness, -loss)
            self.state.best = {name: value.detach().cpu().clone() for name, value in self.model.module.state_dict().items()}

    def _val(self) -> tuple[float, float, dict[str, float]]:
        """Loss on val, goodness (mean of the heads' guarded metrics), and what the curves show."""
        if not self.val.rows:
            return 0.0, 0.0, {}
        total, collected = 0.0, Collected(self.model.card)
        device, autocast = self.accelerator.device, self.accelerator.autocast
        for batch, outputs in answers(self.model, self.val, device=device, autocast=autocast):
            total += float(torch.stack(list(self.losses(outputs, batch).values())).sum()) * len(batch.rows)
            collected.add(batch, outputs)
        loss = total / self.val.rows
        if not math.isfinite(loss):
            self._stop(f"the loss on val is {loss}", self.state.epoch - 1, self.steps - 1, self.optimizer.param_groups[0]["lr"])
        goods, shown = [], {"val loss": loss}
        for name, (given, truth) in collected.by_output().items():
            found = metrics.measure(self.model.card.outputs[name], given, truth)
            spread = float(np.std(truth)) or 1.0
            goods.append(1 - found.value / spread if found.better == "lower" else found.value)
            shown[f"val {name} {found.name}"] = found.value
        return loss, float(np.mean(goods)) if goods else -loss, shown

    def _curve(self, name: str, value: float) -> None:
        self.state.curves.setdefault(name, []).append([float(self.state.epoch or 1), value])

    def _bytes(self, key: str) -> bytes:
        run = {
            "epoch": self.state.epoch,
            "best_epoch": self.state.best_epoch,
            "best_score": list(self.state.best_score),
            "curves": self.state.curves,
        }
        scaler = self.accelerator.scaler
        file = io.BytesIO()
        torch.save(
            {
                "key": key,
                "run": run,
                "module": self.model.module.state_dict(),
                "best": self.state.best,
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
            },
            file,
        )
        return file.getvalue()


def learning_rate(plan: Plan, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: a linear warm-up, then half a cosine down to 1%, or two drops to a tenth."""
    warm_up = min(MAX_WARM_UP, int(WARM_UP * steps))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / warm_up
    if plan.schedule == "step":
        return plan.learning_rate * 0.1 ** sum(step >= drop * steps for drop in DROPS)
    done = (step - warm_up) / max(1, steps - warm_up)
    return plan.learning_rate * (LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * done)) / 2)


def _groups(model: FusedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay, and those without: biases and norms."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainError("the model has no trainable parameters.", fix="check what the factory builds, and its requires_grad.")
    decayed = [parameter for parameter in trainable if parameter.dim() > 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if parameter.dim() <= 1], "weight_decay": 0.0},
    ]


def _accelerator(plan: Plan) -> Accelerator:
    """accelerate keeps one state per process: it is made anew where an earlier training in this process chose otherwise."""
    cpu = plan.device == "cpu" or (plan.device == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available())
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainError(f"device '{plan.device}' is not here.", why="torch sees no CUDA device.", fix="use --device auto or cpu.")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return Accelerator(
            cpu=cpu, mixed_precision=plan.mixed_precision, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
    except (ValueError, NotImplementedError) as err:
        raise TrainError(
            f"mixed precision '{plan.mixed_precision}' does not work on this device.", why=f"{err}", fix="use --mixed-precision no."
        ) from err


def _deviations(card: Card, train: Split) -> dict[str, float]:
    """Standard deviation of every regression target over the train split (its first 4,096 rows where it is streamed)."""
    wanted = [name for name, output in card.outputs.items() if output.task == "regression"]
    if not wanted:
        return {}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for number, batch in enumerate(train.batches(256, shuffle=0)):
        if train.arrays is None and number >= 16:
            break
        for name in wanted:
            parts[name].append(batch.targets[name])
    return {name: float(np.concatenate(values).std()) or 1.0 for name, values in parts.items()}
