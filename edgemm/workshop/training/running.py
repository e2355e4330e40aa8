"""One run of the training loop: stages, epochs, steps, what is measured on val between them, and the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from edgemm.data.augmenting import Augmenter
from edgemm.data.in_memory import Splits
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training import convolutions, loop_state, optimizers
from edgemm.workshop.training.answers import Collected, answer, answers, evaluate, tensors
from edgemm.workshop.training.averaging import Average
from edgemm.workshop.training.freezing import Freezing
from edgemm.workshop.training.loop_state import LoopState
from edgemm.workshop.training.loss_parts import LossParts, own, weighed
from edgemm.workshop.training.options import TrainOptions
from edgemm.workshop.training.outcome import Diverged, Trained
from edgemm.workshop.training.schedules import rate_share
from edgemm.workshop.training.task_losses import LossHook, Tensors

CLIP_NORM = 1.0
RATE = "learning rate/learning rate"
Progress = Callable[[str, float], None]
Note = Callable[[str], None]
Watch = Callable[[int, Mapping[str, float]], None]
Weighted = Sequence[tuple[float, Tensors]]
"""Truths for the same inputs, and what each counts: one, or two of rows that were mixed."""


class Run:
    """One run.

    Args:
        losses: Where it is a Module, its own parameters are trained too.
        augmenter: Changes the rows of train; None = they are as they come.
        is_scored: Whether val is judged by what the outputs come to; else by the loss alone.
        watch: Told of every epoch what the curves show; in the first of several processes.
    """

    def __init__(
        self,
        model: FusedModel,
        options: TrainOptions,
        splits: Splits,
        losses: LossHook,
        accelerator: Accelerator,
        *,
        augmenter: Augmenter | None = None,
        is_scored: bool = True,
        watch: Watch = lambda epoch, values: None,
        progress: Progress = lambda text, fraction: None,
    ) -> None:
        self.is_scored = is_scored
        self.model, self.options, self.train, self.val = model, options, splits.train, splits.val
        self.losses, self.accelerator, self.augmenter = losses, accelerator, augmenter
        self.watch, self.progress = watch, progress
        if isinstance(losses, nn.Module):
            losses.to(accelerator.device)
        self.steps = self.train.steps(options.batch_size)
        self.stages = options.planned()
        self.passes = [options.passes(self.steps, stage) for stage in self.stages]
        self.schedule = options.chosen("schedule")
        self.freezing = Freezing(model, self.stages)
        self.parameters = [*model.parameters(), *own(losses).parameters()]
        self.overruns = convolutions.overruns(model.module)
        self.state = LoopState()
        self.wrapped: Any = None
        self.average: Average | None = None

    @property
    def epochs(self) -> int:
        """How many there are to be."""
        return sum(self.passes)

    def start(self, path: Path | None, key: str, note: Note) -> None:
        """Begin, or go on from a state file, if it is this run's."""
        saved = loop_state.read(path, key, note)
        self.state, parts = saved or (LoopState(), {})
        self._begin_stage()
        self.average = Average(self.model.module, self.options.average) if self.options.average else None
        if not saved:
            return
        self.model.module.load_state_dict(parts["module"])
        own(self.losses).load_state_dict(parts["loss"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        if self.accelerator.scaler is not None and parts["scaler"]:
            self.accelerator.scaler.load_state_dict(parts["scaler"])
        note(f"resumed after epoch {self.state.epoch} of {self.epochs}.")
        for epoch in range(1, self.state.epoch + 1):
            self._tell(epoch)

    def run(self, path: Path | None, key: str) -> None:
        """Train the epochs that are left."""
        while True:
            while not self._is_stage_over():
                means = self._epoch(self.state.epoch)
                self.state.epoch += 1
                self.state.draw(means)
                if self.average is not None:
                    self.average.after_epoch((self.state.epoch - self.state.began) / self.passes[self.state.stage])
                self.judge()
                self._shrink()
                if path is not None and self.accelerator.is_main_process:
                    loop_state.write(path, key, self.state, self._state_dicts())
                self._tell(self.state.epoch)
                self.accelerator.wait_for_everyone()
            if self.state.epoch < self.state.began + self.passes[self.state.stage]:
                self.state.early.append(self.state.stage + 1)
            if self.state.stage + 1 == len(self.stages):
                return
            self._next_stage()

    def finish(self) -> Trained:
        """Put the best weights back and score them."""
        model = self.restore_best()
        metrics = evaluate(model, self.val).measured() if self.val.rows and self.is_scored else {}
        state = self.state
        return Trained(
            state.curves, metrics, state.best_epoch, state.epoch, self.epochs, is_main=self.accelerator.is_main_process,
            stages=len(self.stages), early=tuple(state.early), goodness=state.best_score[0] if self.val.rows else math.nan,
        )  # fmt: skip

    def restore_best(self) -> FusedModel:
        """The model as it was given, on the CPU, in eval mode, with the best weights so far."""
        model = self._unwrap()
        if self.state.best:
            model.module.load_state_dict(self.state.best)
        self.freezing.end()
        return model.to("cpu").eval()

    def judge(self) -> None:
        """Measure on val and keep the weights if they are the best yet; of averaged weights the mean."""
        with self.average.in_place() if self.average is not None else nullcontext():
            verdicts = [self._val()] if self.accelerator.is_main_process else [None]
            loss, goodness, shown = broadcast_object_list(verdicts)[0]
            self.state.draw(shown)
            if not self.val.rows or (goodness, -loss) > self.state.best_score:
                self.state.best_epoch, self.state.best_score = self.state.epoch, (goodness, -loss)
                self.state.best = {name: value.detach().cpu().clone() for name, value in self.model.module.state_dict().items()}

    def _tell(self, epoch: int) -> None:
        if self.accelerator.is_main_process:
            self.watch(epoch, {name: value for name, points in self.state.curves.items() for at, value in points if at == epoch})

    def _is_stage_over(self) -> bool:
        passes = self.passes[self.state.stage]
        patience = self.options.patience_of(passes)
        gave_up = patience is not None and self.val.rows > 0 and self.state.unimproved >= patience
        return gave_up or self.state.epoch >= self.state.began + passes

    def _begin_stage(self) -> None:
        """What is trained, and an optimizer for it."""
        if self.wrapped is not None:
            self._unwrap()
        self.freezing.begin(self.state.stage)
        optimizer = optimizers.make(
            self.options.chosen("optimizer"), self.model, own(self.losses), rate=self._rate(0), weight_decay=self.options.weight_decay
        )
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, optimizer)

    def _next_stage(self) -> None:
        """Go on from the best weights so far."""
        self.state.next_stage()
        if self.state.best:
            self.model.module.load_state_dict(self.state.best)
        if self.average is not None:
            self.average.restart()
        self._begin_stage()

    def _unwrap(self) -> FusedModel:
        model: FusedModel = self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        return model

    def _rate(self, step: int) -> float:
        """The learning rate at a step of the stage."""
        highest = self.stages[self.state.stage].learning_rate or self.options.learning_rate
        return highest * self.state.shrunk * rate_share(self.schedule, step, self.passes[self.state.stage] * self.steps)

    def _shrink(self) -> None:
        """Schedule ``plateau``: less, where nothing got better for a while."""
        state = self.state
        if self.schedule.name == "plateau" and min(state.unimproved, state.epoch - state.shrunk_at) >= self.schedule.numbers["patience"]:
            state.shrunk, state.shrunk_at = state.shrunk * self.schedule.numbers["factor"], state.epoch

    def _epoch(self, epoch: int) -> dict[str, float]:
        """One pass; returns what the curves show of it: the mean loss, its parts where it has several, and the learning rate."""
        torch.manual_seed((self.options.seed * 1_000_003 + epoch) * 64 + self.accelerator.process_index)
        self.wrapped.train()
        own(self.losses).train()
        self.freezing.settle(self.state.stage)
        total, seen, parts, rate = 0.0, 0, LossParts(), self.options.learning_rate
        for number, weighted in enumerate(self._shares(epoch)):
            rows = len(weighted[0][1].rows)
            rate = self._rate((epoch - self.state.began) * self.steps + number)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(weighted, epoch, number, rate, parts)
            total, seen = total + loss * rows, seen + rows
            done = (epoch + (number + 1) / self.steps) / self.epochs
            self.progress(f"epoch {epoch + 1}/{self.epochs}, loss {total / seen:.4f}", min(done, 1.0))
        return {RATE: rate, "loss/train": total / seen, **parts.means()}

    def _shares(self, epoch: int) -> Iterator[Weighted]:
        """This process's share of every batch; a last batch of one row is left out (batch norm has no variance of one)."""
        rank, world, device = self.accelerator.process_index, self.accelerator.num_processes, self.accelerator.device
        batches = self.train.batches(self.options.batch_size, shuffle=self.options.seed * 100_003 + epoch)
        for number, batch in enumerate(batches):
            rows = len(batch.rows) // world * world
            if rows // world < 2:
                continue
            share = slice(rank, rows, world)
            if self.augmenter is None:
                yield [(1.0, tensors(batch, device, share))]
                continue
            changed = self.augmenter.change(batch, epoch, number)
            first = tensors(changed.batch, device, share)
            if changed.other is None:
                yield [(1.0, first)]
            else:
                other = tensors(replace(changed.batch, inputs={}, truth=dict(changed.other), present={}), device, share)
                yield [(changed.share, first), (1 - changed.share, replace(first, truth=other.truth))]

    def _step(self, weighted: Weighted, epoch: int, number: int, rate: float, parts: LossParts) -> float:
        batch = weighted[0][1]
        outputs = answer(self.wrapped, batch)
        losses = weighed([(share, self.losses(outputs, truth)) for share, truth in weighted])
        loss = torch.stack(list(losses.values())).sum()
        value = float(loss.detach())
        if not math.isfinite(value):
            self._stop(f"the loss is {value}", epoch, number, rate)
        several, number_in = self.options.accumulate, number % self.options.accumulate
        if not number_in:
            self.optimizer.zero_grad()
        with convolutions.kept_within(self.overruns):
            self.accelerator.backward(loss / several)
        parts.add(losses, len(batch.rows))
        if number_in + 1 < several and number + 1 < self.steps:
            return value
        norm = self.accelerator.clip_grad_norm_(self.parameters, CLIP_NORM)
        if self.accelerator.scaler is None and norm is not None and not math.isfinite(float(norm)):
            self._stop("the gradient is not finite", epoch, number, rate)  # under fp16 the scaler skips such a step
        self.optimizer.step()
        if self.average is not None:
            self.average.after_step()
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

    def _val(self) -> tuple[float, float, dict[str, float]]:
        """Loss on val, goodness (mean of the heads' guarded metrics), and what the curves show."""
        if not self.val.rows:
            return 0.0, 0.0, {}
        total, collected = 0.0, Collected(self.model.card)
        own(self.losses).eval()
        device, autocast = self.accelerator.device, self.accelerator.autocast
        for batch, outputs in answers(self.model, self.val, device=device, autocast=autocast):
            with torch.inference_mode():
                total += float(torch.stack(list(self.losses(outputs, batch).values())).sum()) * len(batch.rows)
            if self.is_scored:
                collected.add(batch, outputs)
        loss = total / self.val.rows
        if not math.isfinite(loss):
            rate = self.optimizer.param_groups[0]["lr"]
            self._stop(f"the loss on val is {loss}", max(0, self.state.epoch - 1), self.steps - 1 if self.state.epoch else -1, rate)
        goods, shown = [], {"loss/val": loss}
        for name, statistics in collected.answered().statistics().items() if self.is_scored else ():
            score = statistics.score()
            goods.append(statistics.goodness())
            shown[f"{name} {score.name}/val"] = score.value
        return loss, float(np.mean(goods)) if goods else -loss, shown

    def _state_dicts(self) -> dict[str, Any]:
        """What a state file holds beside ``state``."""
        scaler = self.accelerator.scaler
        return {
            "module": self.model.module.state_dict(),
            "loss": own(self.losses).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
