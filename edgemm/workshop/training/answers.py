"""What a fused model answers to a whole split, beside the truth, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgemm.contracts import task as tasks
from edgemm.contracts import user_code
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Batch
from edgemm.contracts.task import Statistics, Task
from edgemm.data.in_memory import DecodedSplit
from edgemm.data.judged import told
from edgemm.errors import EdgemmError, TrainError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.task_losses import Tensors

BATCH = 256
Change = Callable[[Batch, int, int], Batch]


def tensors(batch: Batch, device: torch.device | str = "cpu", rows: slice = slice(None)) -> Tensors:
    """A batch, or some of its rows, on a device."""

    def move(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(array[rows])).to(device) for name, array in arrays.items()}

    return Tensors(move(batch.inputs), move(batch.truth), move(batch.present), torch.from_numpy(batch.rows[rows].copy()))


def answer(model: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], batch: Tensors) -> dict[str, torch.Tensor]:
    """The model's outputs for a batch.

    Raises:
        TrainError: Its code failed on the batch (the line is named), or memory ran out.
        CardError: As ``FusedModel.forward``.
    """
    try:
        return model(batch.inputs)
    except EdgemmError:
        raise
    except Exception as err:
        if isinstance(err, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(err):
            raise TrainError(
                f"memory ran out on a batch of {len(batch.rows)} rows.", why=_first_line(err), fix="use a smaller batch size."
            ) from err
        raise TrainError(
            f"the model failed on a batch of {len(batch.rows)} row{'s' * (len(batch.rows) > 1)}, at {user_code.line_of(err)}.",
            why=f"{type(err).__name__}: {_first_line(err)}",
            fix="check that forward takes the shapes the card declares.",
        ) from err


def in_precision(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """The context in which a model computes in ``bf16`` or ``fp16``; with ``no`` nothing changes."""
    short = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device, short) if short else nullcontext()


def answers(
    model: FusedModel,
    split: DecodedSplit,
    *,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[tuple[Tensors, dict[str, torch.Tensor]]]:
    """Every batch of a split in its own order with the model's outputs (float32), in eval mode and without gradients."""
    model.eval()
    for batch in split.batches(batch_size):
        device_batch = tensors(batch, device)
        with torch.inference_mode(), autocast():
            outputs = answer(model, device_batch)
        yield device_batch, {name: value.float() for name, value in outputs.items()}


@dataclass(frozen=True)
class Rechanged(DecodedSplit):
    """A split whose batches are changed."""

    change: Change
    again: int

    @classmethod
    def of(cls, split: DecodedSplit, change: Change, again: int) -> Rechanged:
        return cls(split.dataset, split.name, split.rows, split.arrays, change, again)

    def batches(self, batch_size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        for number, batch in enumerate(super().batches(batch_size, shuffle=shuffle)):
            yield self.change(batch, self.again, number)


class Collected:
    """Answers and truth of the outputs that have a metric, gathered batch by batch."""

    def __init__(self, card: Card) -> None:
        self._tasks = {name: task for name, task in tasks.tasks(card).items() if task.is_scored}
        self._answers: dict[str, list[np.ndarray]] = {read: [] for task in self._tasks.values() for read in task.reads}
        self._truth: dict[str, list[np.ndarray]] = {name: [] for name in self._tasks}
        self._rows: list[np.ndarray] = []

    def add(self, batch: Tensors, outputs: Mapping[str, torch.Tensor]) -> None:
        self._rows.append(batch.rows.cpu().numpy())
        for name, answered in self._answers.items():
            answered.append(outputs[name].cpu().numpy())
        for name in self._truth.keys() & batch.truth.keys():
            self._truth[name].append(batch.truth[name].cpu().numpy())

    def answered(self) -> Answered:
        """All rows together."""
        answers = {name: np.concatenate(parts) for name, parts in self._answers.items() if parts}
        truth = {name: np.concatenate(parts) for name, parts in self._truth.items() if parts}
        return Answered(self._tasks, answers, truth, np.concatenate([np.zeros(0, np.int64), *self._rows]))


@dataclass(frozen=True)
class Answered:
    """What a model answered to a split, beside the truth.

    Attributes:
        tasks: Of the outputs that have a metric.
        answers: Output -> (rows, ...); {} where there were no rows.
        truth: The same, of outputs that have some.
        rows: int64 (rows,), their numbers as a person counts.
    """

    tasks: Mapping[str, Task]
    answers: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    rows: np.ndarray

    def statistics(self) -> dict[str, Statistics]:
        """Output -> what its answers come to.

        Raises:
            MeasureError: As ``Task.measure``.
        """
        return {name: task.measure(self.answers, self.truth.get(name)) for name, task in self.tasks.items()} if self.answers else {}

    def measured(self) -> dict[str, dict[str, Any]]:
        """Output -> the guarded metric first, its ``low``, ``high`` and ``n``, the task's further ones, and those of each of ``labels``."""
        values: dict[str, dict[str, Any]] = {}
        for name, statistics in self.statistics().items():
            score, task, truth = statistics.score(), self.tasks[name], self.truth.get(name)
            further = task.further(self.answers, truth)
            values[name] = {score.name: score.value, "low": score.low, "high": score.high, "n": score.n}
            values[name] |= {key: value for key, value in further.items() if math.isfinite(value)}
            if truth is not None and (judged := task.judged(self.answers, truth)):
                values[name]["labels"] = told(judged[0])
        return values


def evaluate(
    model: FusedModel, split: DecodedSplit, *, batch_size: int = BATCH, change: Change | None = None, repeats: int = 1
) -> Answered:
    """Answers to all rows of a split, of the outputs that have a metric.

    Args:
        change: What is done to a batch before it is answered once more: the batch, how often it was answered, its number.
        repeats: How often; the first time it is as it comes. The answers are averaged.
    """
    collected, device = Collected(model.card), next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    splits = [split, *(Rechanged.of(split, change, again) for again in range(1, repeats) if change is not None)]
    every = [answers(model, one, batch_size=batch_size, device=device) for one in splits]
    for answered in zip(*every, strict=True):
        batch, outputs = answered[0]
        if len(answered) > 1:
            outputs = {name: torch.stack([one[name] for _, one in answered]).mean(0) for name in outputs}
        collected.add(batch, outputs)
    return collected.answered()


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{lines[0][:240]}" if lines else "no reason given."
