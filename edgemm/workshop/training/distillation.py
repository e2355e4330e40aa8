"""What a student learns from a teacher: its answers, its features at the ends of branches, and which samples it finds alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemm.contracts.card import Card
from edgemm.workshop.models.feature_taps import Taps
from edgemm.workshop.training import loss as losses
from edgemm.workshop.training.loss import feature_loss
from edgemm.workshop.training.negatives import Negatives, paired
from edgemm.workshop.training.task_losses import TaskLosses, Tensors
from edgemm.workshop.training.teacher import Known, Teacher

TEMPERATURE = 2.0
MAP_AXES = 4  # samples, channels, height, width
FUSION = "fusion"


class Distillation(nn.Module):
    """The loss of a student beside its teacher: a ``LossHook`` whose own weights (the projectors) ``train_model`` trains along.

    The projectors belong to this object alone: the student's weights never hold them.

    Args:
        temperature: Softens both models' answers of classification and multilabel outputs.
        logits_weight, task_weight: Factors of what the teacher answers and of what the labels say; with ``task_weight`` 0 no label is read.
        loss_weights: Output -> factor of both, 1 where not named.
        deviations: Output that is a measurement -> standard deviation of its truth in train.
        taps: Listens to the student; None = answers only.
        features: Tap -> weight of its feature loss.
        feature_loss: ``mse`` in units of the teacher's variance, or ``cosine``.
        foreground: Of ``mse`` between maps of a picture that an output says places of: the share that cells count in which the teacher sees
            something; the others count the rest. 0 = all cells alike.
        relations: Weight of the loss on how alike the samples of a batch are.
        memory: So many earlier rows each embedding is compared with too, weighted as ``relations``; 0 = none.

    Raises:
        CardError: A weight for no output.

    Source: Hinton et al. 2015 (answers), Romero et al. 2015 (features), Tung & Mori 2019 (relations), Wu et al. 2023 (memory), Guo et al.
    2021, "Distilling Object Detectors via Decoupled Features" (foreground).
    """

    def __init__(
        self,
        card: Card,
        teacher: Teacher,
        *,
        temperature: float = TEMPERATURE,
        logits_weight: float = 1.0,
        task_weight: float = 1.0,
        loss_weights: Mapping[str, float] | None = None,
        deviations: Mapping[str, float] | None = None,
        taps: Taps | None = None,
        features: Mapping[str, float] | None = None,
        feature_loss: Literal["mse", "cosine"] = "mse",
        foreground: float = 0.0,
        relations: float = 0.0,
        memory: int = 0,
    ) -> None:
        super().__init__()
        self.foreground = foreground
        self.card, self.teacher, self.taps = card, teacher, taps
        self.temperature, self.logits_weight, self.task_weight = temperature, logits_weight, task_weight
        self.weights, self.deviations = dict(loss_weights or {}), dict(deviations or {})
        self.features, self.feature_loss, self.relations = dict(features or {}), feature_loss, relations
        learns = task_weight > 0 and losses.trained_outputs(card)
        self.task = TaskLosses(card, weights=self.weights, deviations=self.deviations) if learns else None
        self.imitated = {name: losses.of(output, deviation=self.deviations.get(name, 1.0)) for name, output in card.outputs.items()}
        self.supervised = bool(losses.supervised_outputs(card))
        self.projectors = nn.ModuleDict()
        self.negatives = Negatives(paired(card), memory) if memory and relations else None

    def project(self, student: Mapping[str, tuple[int, ...]], teacher: Mapping[str, tuple[int, ...]]) -> None:
        """Make a linear projector for every feature whose width differs.

        Args:
            student, teacher: Tap -> shape of one sample.
        """
        for name in self.features:
            axis = width_axis(student[name], teacher[name])
            if axis is not None:
                self.projectors[_key(name)] = Projector(student[name][axis], teacher[name][axis], axis + 1)

    def forward(self, outputs: Mapping[str, Tensor], batch: Tensors) -> dict[str, Tensor]:
        """Parts of the loss by name. A batch without labels has no part of the labels."""
        answers = self.teacher(batch, "train" if self.training else "val")
        parts: dict[str, Tensor] = {}
        if self.task is not None and (batch.truth or not self.supervised):
            parts |= {f"{name} (labels)": self.task_weight * part for name, part in self.task(outputs, batch).items()}
        if self.logits_weight:
            parts |= {f"{name} (teacher)": self.logits_weight * part for name, part in self._answers(outputs, answers.outputs).items()}
        if self.taps is not None and (self.features or self.relations):
            parts |= self._features(self.taps.features(len(batch.rows)), answers)
        if self.negatives is not None:
            found = self.negatives(outputs, answers.outputs)
            parts |= {f"{name} (memory)": self.relations * part for name, part in found.items()}
        return parts

    def _answers(self, outputs: Mapping[str, Tensor], taught: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours, theirs = ({name: answer.float() for name, answer in answers.items()} for answers in (outputs, taught))
        return {
            name: self.weights.get(name, 1.0) * loss.imitation(ours, theirs, temperature=self.temperature)
            for name, loss in self.imitated.items()
        }

    def _features(self, student: Mapping[str, Tensor], known: Known) -> dict[str, Tensor]:
        parts, teacher = {}, known.features
        for name, weight in self.features.items():
            key = _key(name)
            own = self.projectors[key](student[name]) if key in self.projectors else student[name]
            seen = self._foreground(name, teacher[name], known.outputs)
            apart = (
                feature_loss(own, teacher[name], self.feature_loss) if seen is None else map_loss(own, teacher[name], seen, self.foreground)
            )
            parts[f"{name} (features)"] = weight * apart
        if self.relations:
            compared = [relation_loss(student[name], teacher[name]) for name in student if name in teacher]
            parts["relations"] = self.relations * torch.stack(compared).mean()
        return parts

    def _foreground(self, tap: str, features: Tensor, outputs: Mapping[str, Tensor]) -> Tensor | None:
        """What the teacher sees in each cell of a tap's map, (n, height, width); None where no output says places of it."""
        if not self.foreground or self.feature_loss != "mse" or features.dim() != MAP_AXES:
            return None
        frames = {name: self.card.outputs[name].options.get("frame") for name in self.imitated}
        size = (features.shape[2], features.shape[3])
        of_this = [name for name, frame in frames.items() if frame is not None and any(_is_of(tap, part) for part in (FUSION, str(frame)))]
        seen = [self.imitated[name].foreground(outputs, size) for name in of_this]
        told = [one for one in seen if one is not None]
        return torch.stack(told).amax(0) if told else None


class Projector(nn.Module):
    """A linear map of one axis: from the student's width to the teacher's."""

    def __init__(self, inside: int, outside: int, axis: int) -> None:
        super().__init__()
        self.axis, self.linear = axis, nn.Linear(inside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.float().movedim(self.axis, -1)).movedim(-1, self.axis)


def comparable(student: tuple[int, ...], teacher: tuple[int, ...]) -> bool:
    """Whether two shapes of a sample differ in one width at most: what a projector can bridge."""
    return len(student) == len(teacher) and sum(ours != theirs for ours, theirs in zip(student, teacher, strict=True)) <= 1


def width_axis(student: tuple[int, ...], teacher: tuple[int, ...]) -> int | None:
    """The axis in which two comparable shapes differ; None where they are equal."""
    return next((axis for axis, (ours, theirs) in enumerate(zip(student, teacher, strict=True)) if ours != theirs), None)


def map_loss(student: Tensor, teacher: Tensor, seen: Tensor, share: float) -> Tensor:
    """``feature_loss`` by ``mse`` of maps (n, channels, h, w), ``share`` of it by cells where something is ``seen``, (n, h, w)."""
    student, teacher = student.float(), teacher.float()
    spread = (teacher - teacher.mean(0)).square().mean().clamp(min=losses.SMALL)
    apart = (student - teacher).square().mean(1)
    means = [(apart * weight).sum() / weight.sum().clamp(min=losses.SMALL) for weight in (seen, 1 - seen)]
    return (share * means[0] + (1 - share) * means[1]) / spread


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two models find the samples of a batch alike; for sequences of one length also the tokens of a sample.

    No projector is needed: similarities of n samples are n x n in any width.
    """
    student, teacher = student.float(), teacher.float()
    apart = (_alike(student.flatten(1)) - _alike(teacher.flatten(1))).square().mean()
    if student.dim() == 3 and teacher.dim() == 3 and student.shape[1] == teacher.shape[1] > 1:
        apart = apart + (_alike(student) - _alike(teacher)).square().mean()
    return apart


def _alike(x: Tensor) -> Tensor:
    """Cosine of every pair of rows: (..., n, width) -> (..., n, n)."""
    unit = F.normalize(x, dim=-1)
    return unit @ unit.transpose(-1, -2)


def _is_of(tap: str, part: str) -> bool:
    """Whether a tap is one of this part's ends: called as it, or so and a number."""
    return tap == part or (tap.startswith(f"{part}.") and tap.removeprefix(f"{part}.").isdecimal())


def _key(name: str) -> str:
    """A tap's name as a key of ModuleDict, which takes neither dots nor names of its own methods."""
    return "of " + name.replace(".", " ")
