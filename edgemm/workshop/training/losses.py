"""What each task's head is trained with, and torchmetrics' view of how well it did."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional import classification as scores
from torchmetrics.functional import mean_absolute_error, pearson_corrcoef

from edgemm.contracts.card import Card, Output
from edgemm.errors import CardError, nearest

TEMPERATURE = 0.07  # of the contrastive loss; the start value of CLIP (Radford et al. 2021), which then learns it
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Tensors:
    """A ``data.Batch`` on the training device: same fields, tensors instead of arrays."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    rows: Tensor


LossHook = Callable[[Mapping[str, Tensor], Tensors], Mapping[str, Tensor]]
"""Outputs by name and the batch -> parts of the loss by name; the loop minimises their sum."""


def check_weights(card: Card, weights: Mapping[str, float]) -> None:
    """Raises CardError where a weight is for no output of the card."""
    for name in weights:
        if name not in card.outputs:
            raise CardError(f"a loss weight names '{name}', no output of this model.", fix=nearest(name, card.outputs))


class TaskLosses:
    """The weighted sum of the heads' losses.

    classification: cross entropy; multilabel: binary cross entropy on logits; regression: smooth L1 of the error in standard deviations
    of the training targets, so that a head in dB and one in Hz weigh alike; embedding with a pair: InfoNCE in both directions.

    Args:
        weights: Output name -> factor; 1 where not named.
        deviations: Regression output -> standard deviation of its training targets.

    Raises:
        CardError: A weight for no output, or no output that has a loss.
    """

    def __init__(self, card: Card, *, weights: Mapping[str, float] | None = None, deviations: Mapping[str, float] | None = None) -> None:
        self._card, self._weights, self._deviations = card, dict(weights or {}), dict(deviations or {})
        check_weights(card, self._weights)
        if not trained_outputs(card):
            raise CardError(
                "no output of this card can be trained.",
                why="a tensor, and an embedding without a pair, have no loss.",
                fix="give one output a task: classification, multilabel, regression, or embedding with `pair: <other output>`.",
            )

    def __call__(self, outputs: Mapping[str, Tensor], batch: Tensors) -> dict[str, Tensor]:
        """One weighted part an output: scalar tensors."""
        return {name: self._weights.get(name, 1.0) * self._part(name, outputs, batch) for name in trained_outputs(self._card)}

    def _part(self, name: str, outputs: Mapping[str, Tensor], batch: Tensors) -> Tensor:
        output = self._card.outputs[name]
        answer = outputs[name].float()
        if output.task == "classification":
            return F.cross_entropy(answer.flatten(0, -2), batch.targets[name].flatten())
        if output.task == "multilabel":
            return F.binary_cross_entropy_with_logits(answer, batch.targets[name])
        if output.task == "regression":
            scale = self._deviations.get(name, 1.0)
            truth = batch.targets[name]
            return F.smooth_l1_loss(answer.reshape(truth.shape) / scale, truth / scale)
        return contrastive(answer, outputs[str(output.pair)].float())


def trained_outputs(card: Card) -> list[str]:
    """Outputs that have a loss."""
    return [name for name, output in card.outputs.items() if output.task != "tensor" and (output.task != "embedding" or output.pair)]


def contrastive(first: Tensor, second: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE over a batch of pairs (n, d), (n, d), in both directions. Source: Radford et al. 2021, figure 3."""
    cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    own = torch.arange(len(cosine), device=cosine.device)
    return (F.cross_entropy(cosine, own) + F.cross_entropy(cosine.T, own)) / 2


def score(output: Output, answers: Tensor, truth: Tensor) -> dict[str, float]:
    """torchmetrics of one head; the steps of ``per_step`` are counted one by one. {} where the task has none.

    classification and multilabel: accuracy, precision, recall, f1 (macro), auroc (macro over the labels that occur); regression: mae,
    pearson; embedding: recall_at_1, _5, _10 (``truth`` = the pair's answers).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of labels that do not occur; they are left out of auroc below
        values = _score(output, answers, truth)
    return {name: float(value) for name, value in values.items() if bool(torch.isfinite(torch.as_tensor(value)))}


def _score(output: Output, answers: Tensor, truth: Tensor) -> dict[str, Any]:
    if output.task == "regression":
        answers, truth = answers.reshape(-1), truth.reshape(-1)
        return {"mae": mean_absolute_error(answers, truth), "pearson": pearson_corrcoef(answers, truth) if len(truth) > 1 else torch.nan}
    if output.task == "embedding" and output.pair:
        return _recall(answers, truth)
    if output.task not in ("classification", "multilabel"):
        return {}
    labels = answers.shape[-1]
    if output.task == "classification":
        answers, truth = answers.reshape(-1, labels), truth.reshape(-1)
        given: dict[str, Any] = {"num_classes": labels}
        kind = "multiclass"
    else:
        answers, truth = torch.sigmoid(answers).reshape(-1, labels), (truth > 0.5).long().reshape(-1, labels)
        given, kind = {"num_labels": labels}, "multilabel"
    found = {
        name: getattr(scores, f"{kind}_{function}")(answers, truth, average="micro" if name == "accuracy" else "macro", **given)
        for name, function in (("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("f1", "f1_score"))
    }
    return found | {"auroc": _auroc(kind, answers, truth, given)}


def _auroc(kind: str, answers: Tensor, truth: Tensor, given: dict[str, Any]) -> Tensor:
    """Mean over the labels that have both answers in the truth; NaN (left out) where none has."""
    per_label = getattr(scores, f"{kind}_auroc")(answers, truth, average="none", **given)
    positives = F.one_hot(truth, answers.shape[-1]).sum(dim=0) if kind == "multiclass" else truth.sum(dim=0)
    return per_label[(positives > 0) & (positives < len(truth))].mean()


def _recall(answers: Tensor, truth: Tensor) -> dict[str, Any]:
    """Share of rows whose partner is among the k nearest by cosine; partners that tie count as the farthest."""
    first, second = F.normalize(answers.flatten(1), dim=-1), F.normalize(truth.flatten(1), dim=-1)
    places = []
    for start in range(0, len(first), 1024):
        cosine = first[start : start + 1024] @ second.T
        own = cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))]
        places.append((cosine >= own[:, None] - 1e-6).sum(dim=1))
    place = torch.cat(places)
    return {f"recall_at_{k}": (place <= k).float().mean() for k in RECALL_AT}
