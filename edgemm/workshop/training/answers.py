"""What a fused model answers to a whole split, beside the truth, and how good that is."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Batch
from edgemm.data import scoring
from edgemm.data.in_memory import Split
from edgemm.errors import EdgemmError, TrainError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.losses import Tensors, score, trained_outputs

BATCH = 256


def tensors(batch: Batch, device: torch.device | str = "cpu", rows: slice = slice(None)) -> Tensors:
    """A batch, or some of its rows, on a device."""

    def move(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.ascontiguousarray(array[rows])).to(device) for name, array in arrays.items()}

    return Tensors(move(batch.inputs), move(batch.targets), move(batch.present), torch.from_numpy(batch.rows[rows].copy()))


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
        frames = traceback.extract_tb(err.__traceback__)
        own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
        raise TrainError(
            f"the model failed on a batch of {len(batch.rows)} rows, at {own[-1].filename}:{own[-1].lineno}.",
            why=f"{type(err).__name__}: {_first_line(err)}",
            fix="check that forward takes the shapes the card declares.",
        ) from err


def in_precision(precision: str, device: str = "cpu") -> AbstractContextManager[object]:
    """The context in which a model computes in ``bf16`` or ``fp16``; with ``no`` nothing changes."""
    short = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device, short) if short else nullcontext()


def answers(
    model: FusedModel,
    split: Split,
    *,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[tuple[Tensors, dict[str, torch.Tensor]]]:
    """Every batch of a split in its own order with the model's outputs (float32), in eval mode and without gradients."""
    model.eval()
    for batch in split.batches(batch_size):
        given = tensors(batch, device)
        with torch.inference_mode(), autocast():
            outputs = answer(model, given)
        yield given, {name: value.float() for name, value in outputs.items()}


class Collected:
    """Answers and truth of the outputs that have a metric, gathered batch by batch."""

    def __init__(self, card: Card) -> None:
        self._card, self._metered = card, trained_outputs(card)
        self._wanted = {name for metered in self._metered for name in (metered, card.outputs[metered].pair) if name}
        self._answers: dict[str, list[np.ndarray]] = {name: [] for name in self._wanted}
        self._truth: dict[str, list[np.ndarray]] = {}

    def add(self, batch: Tensors, outputs: Mapping[str, torch.Tensor]) -> None:
        for name in self._wanted:
            self._answers[name].append(outputs[name].cpu().numpy())
        for name, truth in batch.targets.items():
            self._truth.setdefault(name, []).append(truth.cpu().numpy())

    def by_output(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Output -> (answers, truth); an embedding's truth is its pair's answers."""
        joined = {name: np.concatenate(parts) for name, parts in self._answers.items() if parts}
        truth = {name: np.concatenate(parts) for name, parts in self._truth.items()}
        pairs = {name: joined[str(self._card.outputs[name].pair)] for name in self._metered if self._card.outputs[name].pair and joined}
        return {name: (joined[name], (truth | pairs)[name]) for name in self._metered if name in joined}


def evaluate(model: FusedModel, split: Split, *, batch_size: int = BATCH) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Output -> (answers, truth) for all rows of a split, for the outputs that have a metric."""
    collected = Collected(model.card)
    for batch, outputs in answers(model, split, batch_size=batch_size, device=next((p.device for p in model.parameters()), "cpu")):
        collected.add(batch, outputs)
    return collected.by_output()


def measured(card: Card, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, dict[str, float | int | None]]:
    """Output -> torchmetrics' values, and ``low``, ``high`` and ``n`` of the guarded one."""
    values: dict[str, dict[str, float | int | None]] = {}
    for name, (given, truth) in found.items():
        guarded = scoring.measure(card.outputs[name], given, truth)
        values[name] = {guarded.name: guarded.value, "low": guarded.low, "high": guarded.high, "n": guarded.n}
        values[name] |= {
            key: value
            for key, value in score(card.outputs[name], torch.from_numpy(given), torch.from_numpy(truth)).items()
            if key != guarded.name
        }
    return values


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return f"{lines[0][:240]}" if lines else "no reason given."
