"""The teacher of a distillation: checked against the student, frozen, and asked once for each row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from edgemm.contracts.card import Card
from edgemm.contracts.modality import input_specs
from edgemm.errors import Collector, TrainError
from edgemm.workshop.models.feature_taps import Taps
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.training.answers import answer, in_precision
from edgemm.workshop.training.task_losses import Tensors

MEMORY_BYTES = 256 << 20  # 2 million rows of 10 logits and a branch of 20 numbers; beside 1 GiB of decoded rows
GROWTH = 1.25  # of the table of places, where rows bear larger numbers than there are rows


@dataclass(frozen=True)
class Known:
    """What a teacher says to a batch: outputs by name, and features by tap, (n, ...) each."""

    outputs: dict[str, Tensor]
    features: dict[str, Tensor] = field(default_factory=dict)


class Teacher:
    """A frozen model that answers batches. It sees every modality, whatever the student is deprived of.

    Args:
        model: Left as it is, in eval mode.
        taps: Listens to ``model``; None = outputs only.
        rows: Split -> its rows, where an answer may be kept and given again to the same row; a split not named is asked anew each time.
            Only for rows that always decode to the same sample.
        memory_bytes: What may be kept, in all.
        note: Told when that is too little.
        precision: ``bf16`` or ``fp16``: what the model computes in, as in training; ``no`` = float32. What it says is float32.
    """

    def __init__(
        self,
        model: FusedModel,
        *,
        taps: Taps | None = None,
        rows: Mapping[str, int] | None = None,
        memory_bytes: int = MEMORY_BYTES,
        note: Callable[[str], None] = lambda text: None,
        precision: str = "no",
    ) -> None:
        self.model, self._taps, self._note, self._precision = model, taps, note, precision
        self._rows, self._memory = dict(rows or {}), memory_bytes
        self._kept: dict[str, _Kept] = {}

    def __call__(self, batch: Tensors, split: str = "") -> Known:
        """The teacher's outputs and features for a batch, on the batch's device, without gradients."""
        device = next(iter(batch.inputs.values())).device
        numbers = batch.rows.cpu().numpy()
        kept = self._kept.get(split)
        if kept is not None and kept.has(numbers):
            return kept.read(numbers, device)
        with torch.no_grad():
            answers = self._asked(batch, device)
        if split in self._rows:
            kept = self._kept.setdefault(split, _Kept(self._rows[split]))
            if self._fits(answers, kept, int(numbers.max())):
                kept.write(numbers, answers)
        return answers

    def _asked(self, batch: Tensors, device: torch.device) -> Known:
        where = next((parameter.device for parameter in self.model.parameters()), device)
        if where != device:
            self.model = copy.deepcopy(self.model).to(device)  # its hooks come along and write to the same taps
        self.model.eval()
        with in_precision(self._precision, device.type):
            outputs = answer(self.model, batch)
        features = self._taps.features(len(batch.rows)) if self._taps else {}
        return Known(_float(outputs), _float(features))

    def _fits(self, answers: Known, kept: _Kept, largest: int) -> bool:
        """Whether all rows' answers, and where they lie, fit the memory; says so once when they do not, and forgets them.

        Args:
            largest: Number of a row that is about to go into ``kept``.
        """
        tensors = (*answers.outputs.values(), *answers.features.values())
        row = sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)
        places = sum(self._kept[split].places_bytes if split in self._kept else _places_bytes(rows) for split, rows in self._rows.items())
        needed = row * sum(self._rows.values()) + places + kept.more_bytes(largest)
        if needed > self._memory:
            self._note(f"the teacher's answers would take {needed / 2**30:.1f} GiB; it is asked anew in every epoch.")
            self._rows = {}
            self._kept.clear()
        return bool(self._rows)


def _float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


class _Kept:
    """Answers to the rows of one split, in numpy: a tensor made in inference mode could not be trained with later."""

    def __init__(self, rows: int) -> None:
        self._rows, self._count = rows, 0
        self._places = np.zeros(rows + 1, np.int32)  # number of a row -> its place, counted from 1; a dict takes 106 bytes a row
        self._arrays: dict[tuple[str, str], np.ndarray] = {}

    @property
    def places_bytes(self) -> int:
        return self._places.nbytes

    def more_bytes(self, largest: int) -> int:
        """By how much its table of places would grow for a row of that number."""
        return 0 if largest < len(self._places) else _places_bytes(int(GROWTH * largest)) - self._places.nbytes

    def has(self, numbers: np.ndarray) -> bool:
        return bool(numbers.max() < len(self._places) and self._places[numbers].all())

    def write(self, numbers: np.ndarray, known: Known) -> None:
        if more := self.more_bytes(int(numbers.max())):
            self._places.resize(len(self._places) + more // self._places.itemsize, refcheck=False)
        new = np.unique(numbers[self._places[numbers] == 0])
        if self._count + len(new) > self._rows:
            return  # the split has more rows than it said; those beyond are asked anew
        self._places[new] = np.arange(self._count + 1, self._count + len(new) + 1)
        self._count += len(new)
        places = self._places[numbers] - 1
        for kind, tensors in (("output", known.outputs), ("feature", known.features)):
            for name, tensor in tensors.items():
                values = tensor.float().cpu().numpy()
                room = self._arrays.setdefault((kind, name), np.empty((self._rows, *values.shape[1:]), np.float32))
                room[places] = values

    def read(self, numbers: np.ndarray, device: torch.device) -> Known:
        places = self._places[numbers] - 1
        tensors: dict[str, dict[str, Tensor]] = {"output": {}, "feature": {}}
        for (kind, name), room in self._arrays.items():
            tensors[kind][name] = torch.from_numpy(room[places]).to(device)
        return Known(tensors["output"], tensors["feature"])


def _places_bytes(largest: int) -> int:
    return 4 * (largest + 1)


def require_same_heads(teacher: Card, student: Card) -> None:
    """Refuse a teacher that cannot answer for the student, naming every output and input that differs.

    Raises:
        TrainError, Mistakes: An output of the student that the teacher lacks, or has with another task or other labels; an input that
            the student has not, or reads in another shape.
    """
    errors = Collector()
    for name, output in student.outputs.items():
        other = teacher.outputs.get(name)
        if other is None:
            errors.add(
                TrainError(
                    f"the teacher has no output '{name}'.",
                    why=f"its outputs are {', '.join(teacher.outputs)}; the student's are {', '.join(student.outputs)}.",
                    fix="take a teacher with the student's heads.",
                )
            )
            continue
        for what in ("task", "per_step", "labels"):
            theirs, ours = getattr(other, what), getattr(output, what)
            if theirs != ours:
                errors.add(_unlike(name, what, theirs, ours))
                break
    theirs_in, ours_in = ({spec.name: spec for spec in input_specs(card)} for card in (teacher, student))
    for name, spec in theirs_in.items():
        if name not in ours_in or (spec.shape, spec.dtype) != (ours_in[name].shape, ours_in[name].dtype):
            why = f"the teacher takes {spec}, the student {ours_in.get(name, 'no such input')}."
            errors.add(_unread(name, why))
        elif (option := _decoded_otherwise(teacher, student, name)) is not None:
            errors.add(_unread(name, f"their '{option}' differs, so the same row would be another sample to the teacher."))
    errors.raise_if_any()


def _unread(name: str, why: str) -> TrainError:
    return TrainError(f"the teacher's input '{name}' is not the student's.", why=why, fix="take a teacher that reads the same inputs.")


def _decoded_otherwise(teacher: Card, student: Card, name: str) -> str | None:
    """The option by which one row of data becomes different samples for two cards; the front-ends, being in the models, may differ."""
    theirs, ours = (card.inputs[name].options for card in (teacher, student))
    for option in ("rate_hz", "fit"):
        if theirs.get(option) != ours.get(option):
            return option
    files = [card.tokenizers()[name] for card in (teacher, student) if name in card.tokenizers()]
    return "tokenizer" if len(files) == 2 and files[0].read_bytes() != files[1].read_bytes() else None


def _unlike(name: str, what: str, theirs: object, ours: object) -> TrainError:
    if what != "labels":
        return TrainError(
            f"output '{name}': {what} is {theirs!r} for the teacher and {ours!r} for the student.",
            fix="take a teacher with the student's heads.",
        )
    theirs, ours = (tuple(labels) if isinstance(labels, tuple) else () for labels in (theirs, ours))
    why = f"the teacher's are {_listed(theirs)}; the student's {_listed(ours)}."
    if len(theirs) != len(ours):
        return TrainError(
            f"output '{name}': the teacher has {len(theirs)} labels, the student {len(ours)}.",
            why=why,
            fix="take a teacher with the student's labels.",
        )
    return TrainError(
        f"output '{name}': teacher and student name its labels differently, or in another order.",
        why=why,
        fix="train the student with the teacher's labels in the teacher's order.",
    )


def _listed(labels: tuple[object, ...]) -> str:
    return ", ".join(map(str, labels[:12])) + (", ..." if len(labels) > 12 else "")
