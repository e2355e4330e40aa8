"""Distillation: the model learns to answer as the one it was before compression, or as any other with the same heads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch

from edgemm.contracts import card_file as cards
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Dataset
from edgemm.contracts.specs import Branch
from edgemm.contracts.step import Context
from edgemm.data.in_memory import DecodedSplit, Splits, open_splits, open_unlabeled
from edgemm.errors import DataError, TrainError
from edgemm.workshop.models.checkpoint.loading import load_model
from edgemm.workshop.models.checkpoint.origin import origin
from edgemm.workshop.models.feature_taps import Deprivation, find_ends
from edgemm.workshop.models.folding import folded
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.row_by_row import require_own_answers_on
from edgemm.workshop.training.answers import Collected, answers, in_precision
from edgemm.workshop.training.distillation import Distillation
from edgemm.workshop.training.layer_pairs import pair
from edgemm.workshop.training.loop import train_model
from edgemm.workshop.training.loss import supervised_outputs
from edgemm.workshop.training.negatives import paired
from edgemm.workshop.training.options import DISTILL, TrainOptions
from edgemm.workshop.training.outcome import Diverged
from edgemm.workshop.training.task_losses import check_weights
from edgemm.workshop.training.teacher import Teacher, require_same_heads

STAGE = "torch"
PACKAGES = ("accelerate",)


def distill(
    model: FusedModel,
    ctx: Context,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    temperature: float = 2.0,
    logits_weight: float = 1.0,
    task_weight: float = 1.0,
    loss_weights: dict[str, float] | None = None,
    features: dict[Branch, float] | None = None,
    feature_loss: Literal["mse", "cosine"] = "mse",
    foreground: float = 0.5,
    relations: float = 0.0,
    memory: int = 0,
    modality_dropout: float = 0.0,
    unlabeled: str | None = None,
    teacher: str | None = None,
    batch_size: int = 64,
    accumulate: int = 1,
    learning_rate: float = 1e-3,
    schedule: Literal["cosine", "step"] = "cosine",
    weight_decay: float = 0.01,
    patience: int | None = None,
    device: str = "auto",
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
) -> FusedModel:
    """A copy of ``model`` trained beside its teacher; the weights that are best on val (with all modalities), those given among them.

    A teacher tells most about rows it does not know by heart. That of the digits has a loss of 0.007 on its train rows: pruned to 28% of
    the multiply-accumulates and trained for five epochs, a student came to 0.761 / 0.815 on val / test with both weights 1, to 0.783 /
    0.833 by the labels alone, and to 0.776 / 0.830 by the teacher alone at temperature 4; val swings by two points from epoch to epoch.
    Unlabelled rows and ``modality_dropout`` are where such a teacher has something to say. What gave nothing (digits, half of the
    multiply-accumulates, 15 epochs): a running mean of the weights (test 0.892, 0.913, 0.903 with three seeds; 0.891, 0.916, 0.911 without)
    and mixing rows before the teacher answers (0.899, 0.911). Runs differ by that much: the teacher has 0.893.

    Args:
        epochs: Passes over the train split; None = as ``steps`` says.
        steps: Batches to learn from, instead of ``epochs``, rounded up to whole passes; neither = 2,400, in at least 5 passes and at most
            200. (Digits, 1,050 rows, half of the work gone recovered more in 142 passes than in 15: benchmarks/NOTES.md.)
        temperature: Softens the answers of classification and multilabel outputs, above 0.
        logits_weight: Factor of learning the teacher's answers: KL divergence (classification), the same a label (multilabel), squared
            error in deviations of the targets (regression), cosine (embedding), scores and boxes where either model is sure (detection).
        task_weight: Factor of learning the labels as ``train`` does; 0 = labels are read for val alone.
        loss_weights: Output -> factor of both.
        features: Branch or ``fusion`` -> weight of making the tensor in which it ends like the teacher's. Where widths differ a linear
            projector is learned along, and dropped afterwards.
        feature_loss: ``mse`` in units of the teacher's variance, or ``cosine``.
        foreground: Of ``mse`` between maps, where an output says places in that picture: the share that cells count in which the teacher
            sees something, since most cells hold nothing; 0 = all cells alike.
        relations: Weight of finding the same samples of a batch alike as the teacher (and the same tokens of a sample), at all branches'
            ends and the fusion's.
        memory: With ``relations``: so many rows of earlier batches whose embeddings by the teacher each row is set against too, so that a
            batch of 64 is told from thousands. Of cards with embeddings that are pairs.
        modality_dropout: Chance of each modality of each sample to be taken from the student in training, while the teacher sees it.
        unlabeled: A dataset whose train split is learned from too, without labels.
        teacher: A card; None = the model before compression.
        learning_rate: The highest, after a warm-up; a cosine then lowers it to 1%. (Digits with half of all channels zeroed, three epochs,
            accuracy on val / test: 0.754 / 0.859 at 5e-4, 0.790 / 0.881 at 1e-3, 0.775 / 0.899 at 2e-3; with a fifth zeroed 0.794 / 0.862
            at 5e-4, 0.808 / 0.887 at 1e-3. The teacher has 0.819 / 0.888.)
        patience: Stop after so many epochs without a better one on val; None = a quarter of all, at least 10; 0 = never.
        device: auto, cpu or cuda.
        mixed_precision: As in ``train``: ``bf16`` trains several times faster on processors with AMX and on GPUs.

    Raises:
        TrainError: An option out of range; a teacher with other heads; a loss that is no number (``Diverged``).
        DataError: No rows to train on.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("model", "ctx")}
    check(ctx, **arguments)
    options, asked = _options(arguments, ctx.seed), _asked(arguments)
    taught_by = _teacher(model, ctx, teacher)
    dataset, model = _labelled(ctx), folded(model)
    require_own_answers_on(model, dataset)
    beside = open_unlabeled(unlabeled, model.card, skip_bad_rows=dataset.leaves_out) if unlabeled else None
    splits = open_splits(dataset, unlabeled=beside, progress=ctx.progress, note=ctx.note)
    student = copy.deepcopy(model)
    scores = partial(_scores, card=model.card, val=splits.val, precision=mixed_precision)
    before = {"teacher": scores(taught_by), "before": scores(student)}
    with ExitStack() as hooks:
        loss = _loss(student, taught_by, splits, options, asked, ctx, hooks)
        try:
            done = train_model(student, splits, options=options, loss=loss, judge_start=True, progress=ctx.progress, note=ctx.note)
        except Diverged as err:
            raise err.of("distill") from err
    ctx.facts.update(val={**before, "after": scores(student)}, **done.facts())
    return student


def check(ctx: Context, **given: Any) -> None:
    """What can be known before any work. Raises TrainError, DataError, CardError, Mistakes."""
    options = _options(given, ctx.seed)
    options.check()
    check_weights(ctx.card, options.loss_weights)
    _asked(given).check(given["unlabeled"], ctx.card)
    _labelled(ctx)
    if given["teacher"]:
        teacher = cards.load(given["teacher"])
        require_same_heads(teacher, ctx.card)
        if teacher.factory and not teacher.weights and origin(teacher) != "brought":
            raise TrainError(
                f"the teacher '{given['teacher']}' names no weights: it is untrained, and has nothing to teach.",
                fix="write `weights: FILE` in its card, or leave `teacher` out: the model before compression then teaches.",
            )


def _options(arguments: Mapping[str, Any], seed: int) -> TrainOptions:
    """Those of the step's options that say how to train."""
    named = {field.name: arguments[field.name] for field in fields(TrainOptions) if field.name in arguments}
    return TrainOptions(**{**named, "loss_weights": arguments["loss_weights"] or {}}, seed=seed, usual=DISTILL)


def _asked(arguments: Mapping[str, Any]) -> _Asked:
    """Those of the step's options that say what is learned."""
    named = {field.name: arguments[field.name] for field in fields(_Asked)}
    return _Asked(**{**named, "features": arguments["features"] or {}})


@dataclass(frozen=True)
class _Asked:
    """What is to be learned, as the recipe says it."""

    temperature: float
    logits_weight: float
    task_weight: float
    features: Mapping[str, float]
    feature_loss: Literal["mse", "cosine"]
    foreground: float
    relations: float
    memory: int
    modality_dropout: float

    def check(self, unlabeled: str | None, card: Card) -> None:
        """Raises TrainError naming the first option that cannot be."""
        self._check_memory(card)
        advice = "write a number of at least 0."
        wrong: dict[str, tuple[Any, str, bool]] = {
            "temperature": (self.temperature, "write a number above 0; 2 is usual.", not 0 < self.temperature < float("inf")),
            "modality_dropout": (
                self.modality_dropout,
                "write a share from 0 to below 1, such as 0.2.",
                not 0 <= self.modality_dropout < 1,
            ),
            "foreground": (self.foreground, "write a share from 0 to 1.", not 0 <= self.foreground <= 1),
        }
        for name in ("logits_weight", "task_weight", "relations"):
            value = getattr(self, name)
            wrong[name] = (value, advice, not 0 <= value < float("inf"))
        wrong |= {f"features.{name}": (weight, advice, not 0 <= weight < float("inf")) for name, weight in self.features.items()}
        for name, (value, fix, is_wrong) in wrong.items():
            if is_wrong:
                raise TrainError(f"distill: {name} is {value!r}.", fix=fix)
        if not self.from_teacher:
            raise TrainError(
                "distill: nothing is learned from the teacher.",
                why="logits_weight, features and relations are all 0" + ("; unlabelled rows teach nothing else." if unlabeled else "."),
                fix="set logits_weight to 1.0, or leave the step out.",
            )

    def _check_memory(self, card: Card) -> None:
        if self.memory < 0:
            raise TrainError(f"distill: memory is {self.memory!r}.", fix="write a whole number of rows; 4096 is usual, 0 is none.")
        if self.memory and not self.relations:
            raise TrainError(
                "distill: memory stands without relations.",
                why="it says with how many earlier rows relations are held.",
                fix="add relations: 1.0, or leave memory out.",
            )
        if self.memory and not paired(card):
            raise TrainError(
                "distill: memory needs embeddings that are pairs.",
                why="no output of the card has the task embedding and a pair.",
                fix="leave memory out; relations alone works on every model.",
            )

    @property
    def from_teacher(self) -> bool:
        return bool(self.logits_weight or self.relations or any(self.features.values()))

    @property
    def listens(self) -> bool:
        return bool(self.relations or self.features)


def _teacher(model: FusedModel, ctx: Context, named: str | None) -> FusedModel:
    teacher = load_model(cards.load(named)) if named else ctx.teacher
    if teacher is None:
        raise TrainError("distill has no teacher.", why="the context has none, and none is named.", fix="add teacher: <card>.")
    require_same_heads(teacher.card, model.card)
    return teacher


def _labelled(ctx: Context) -> Dataset:
    """The dataset, if it can be trained on."""
    dataset = ctx.dataset
    if dataset is None or (supervised_outputs(ctx.card) and not dataset.labelled):
        raise DataError(
            "distill needs training data.",
            why="there is no dataset." if dataset is None else "these samples are made up and have no labels to choose the best epoch by.",
            fix="give a dataset with -d DATA, or leave the step out of the recipe.",
        )
    if not dataset.count("train"):
        raise DataError(
            f"distill needs training data, and {dataset.name} has no rows of split 'train'.",
            fix="add rows with split = train, or leave the step out of the recipe.",
        )
    return dataset


def _loss(
    student: FusedModel, teacher: FusedModel, splits: Splits, options: TrainOptions, asked: _Asked, ctx: Context, hooks: ExitStack
) -> Distillation:
    """The loss; what listens to the models, and takes modalities away, ends with ``hooks``."""
    ends = find_ends(student) if asked.listens or asked.modality_dropout else None
    compared = pair(student, teacher, asked.features, ctx.note, ends=ends, relations=asked.relations > 0) if asked.listens else None
    if compared is not None:
        hooks.callback(compared.close)
    elif not asked.logits_weight:
        why = "no features of the two models can be compared; the notes say why."
        raise TrainError("distill: nothing is learned from the teacher.", why=why, fix="set logits_weight to 1.0.")
    if asked.modality_dropout and ends is not None:
        hooks.callback(Deprivation(student, asked.modality_dropout, ends.replaceable, ctx.note).close)
    torch.manual_seed(options.seed)  # the projectors' first weights
    kept = {split.name: split.rows for split in (splits.train, splits.val) if split.is_fixed}
    loss = Distillation(
        student.card,
        Teacher(teacher, taps=compared.teacher if compared else None, rows=kept, note=ctx.note, precision=options.mixed_precision),
        temperature=asked.temperature,
        logits_weight=asked.logits_weight,
        task_weight=asked.task_weight,
        loss_weights=options.loss_weights,
        deviations=splits.deviations,
        taps=compared.student if compared else None,
        features=compared.weights if compared else {},
        feature_loss=asked.feature_loss,
        foreground=asked.foreground,
        relations=asked.relations if compared else 0.0,
        memory=asked.memory,
    )
    if compared is not None:
        loss.project(compared.student_shapes, compared.teacher_shapes)
    return loss


def _scores(model: FusedModel, card: Card, val: DecodedSplit, precision: str) -> dict[str, dict[str, float]]:
    """Output of ``card`` -> its guarded metric on val; {} without val. A teacher may have more outputs than the data has truths."""
    if not val.rows:
        return {}
    collected = Collected(card)
    for batch, outputs in answers(model, val, autocast=partial(in_precision, precision)):
        collected.add(batch, outputs)
    scores = {name: statistics.score() for name, statistics in collected.answered().statistics().items()}
    return {name: {score.name: score.value} for name, score in scores.items()}
