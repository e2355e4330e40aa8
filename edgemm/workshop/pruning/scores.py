"""How much the model would lose without a channel: by its weights, by the task's gradient, or by what it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from edgemm.contracts import task as tasks
from edgemm.contracts.dataset import Dataset
from edgemm.errors import PruneError
from edgemm.workshop.models.fused import FusedModel
from edgemm.workshop.models.tried import evaluating
from edgemm.workshop.pruning.layers import Structure
from edgemm.workshop.training.answers import answer, tensors
from edgemm.workshop.training.convolutions import kept_within, overruns
from edgemm.workshop.training.loss import supervised_outputs
from edgemm.workshop.training.task_losses import TaskLosses

BATCH = 32
Progress = Callable[[str, float], None]


def magnitude(model: FusedModel, found: Structure) -> dict[int, float]:
    """Sum of the squared weights that stand on a channel, over the mean of its layer: layers of large weights are not spared."""
    scores = _by_channel(model, found, lambda tensor: tensor.detach().square(), square=False)
    for layer in found.layers:
        mean = float(np.mean([scores.get(root, 0.0) for root in layer.roots])) or 1.0
        for root in layer.roots:
            scores[root] = scores.get(root, 0.0) / mean
    return scores


def taylor(
    model: FusedModel, found: Structure, dataset: Dataset | None, *, samples: int, seed: int, progress: Progress = lambda text, done: None
) -> dict[int, float]:
    """Squared change of the task loss, to first order, when a channel's weights go to zero; summed over the slots it stands in.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", equation 8, with the sum inside a slot.

    Raises:
        PruneError: No labelled training data.
    """
    batches = _batches(model, dataset, samples, seed, labelled="taylor")
    gradients = {id(p): torch.zeros_like(p) for p in model.module.parameters()}
    deviations = {
        name: float(np.concatenate([batch.truth[name].reshape(-1).numpy() for batch in batches]).std()) or 1.0
        for name, task in tasks.tasks(model.card).items()
        if task.is_quantity
    }
    losses = TaskLosses(model.card, deviations=deviations)
    trainable, overrun = {id(p): p.requires_grad for p in model.module.parameters()}, overruns(model.module)
    with evaluating(model), torch.enable_grad():
        for p in model.module.parameters():
            p.requires_grad_(p.is_floating_point())
        for number, batch in enumerate(batches):
            progress("scoring channels", number / len(batches))
            loss = torch.stack(list(losses(answer(model, batch), batch).values())).sum()
            parameters = [p for p in model.module.parameters() if p.requires_grad]
            with kept_within(overrun):
                slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            for p, gradient in zip(parameters, slopes, strict=True):
                if gradient is not None:
                    gradients[id(p)] += gradient * len(batch.rows)
        for p in model.module.parameters():
            p.requires_grad_(trainable[id(p)])
    return _by_channel(model, found, lambda tensor: tensor.detach() * gradients[id(tensor)], square=True)


def activation(
    model: FusedModel, found: Structure, dataset: Dataset | None, *, samples: int, seed: int, progress: Progress = lambda text, done: None
) -> dict[int, float]:
    """Mean square of what a channel carries where a layer makes it, times the squared weights that read it.

    Raises:
        PruneError: No training data.
    """
    batches = _batches(model, dataset, samples, seed, labelled=None)
    seen = _Seen(model, found)
    with evaluating(model), torch.no_grad():
        for number, batch in enumerate(batches):
            progress("scoring channels", number / len(batches))
            answer(model, batch)
    seen.close()
    weights = magnitude(model, found)
    return {root: weights.get(root, 1.0) * seen.mean(root) for layer in found.layers for root in layer.roots}


class _Seen:
    """Mean squares at the outputs of the modules that make channels."""

    AXES: ClassVar[dict[Any, int]] = {
        nn.Linear: -1,
        nn.Embedding: -1,
        nn.modules.batchnorm._BatchNorm: 1,
        nn.modules.conv._ConvNd: 1,
        nn.RNNBase: -1,
    }

    def __init__(self, model: FusedModel, structure: Structure) -> None:
        self._total: dict[int, list[float]] = {}
        self._hooks = []
        for name, part in model.module.named_modules():
            axis = next((axis for kind, axis in self.AXES.items() if isinstance(part, kind)), None)
            first = "weight_ih_l0" if isinstance(part, nn.RNNBase) else "weight"
            roots = structure.slots.get((f"{name}.{first}", 1 if isinstance(part, nn.Embedding) else 0))
            if axis is None or roots is None:
                continue
            if isinstance(part, nn.RNNBase):
                roots = np.tile(roots[: part.hidden_size], 2 if part.bidirectional else 1)
            self._hooks.append(part.register_forward_hook(lambda _m, _a, value, axis=axis, roots=roots: self._note(value, axis, roots)))

    def mean(self, root: int) -> float:
        values = self._total.get(root)
        return float(np.mean(values)) if values else 1.0

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, value: Any, axis: int, roots: np.ndarray) -> None:
        tensor = value[0] if isinstance(value, tuple) else value
        if not isinstance(tensor, Tensor) or tensor.shape[axis] != len(roots):
            return
        squares = tensor.detach().square().movedim(axis, 0).flatten(1).mean(1).tolist()
        for root, square in zip(roots.tolist(), squares, strict=True):
            if root > 0:
                self._total.setdefault(root, []).append(square)


def _by_channel(model: FusedModel, structure: Structure, of: Callable[[Tensor], Tensor], *, square: bool) -> dict[int, float]:
    """Sum ``of(parameter)`` inside each slot of a channel, square it if asked, and add up its slots."""
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    top = 1 + max((int(roots.max(initial=0)) for roots in structure.slots.values()), default=0)
    totals = np.zeros(top)
    for (name, axis), roots in structure.slots.items():
        if name not in parameters or not (roots > 0).any():
            continue
        values = of(parameters[name]).movedim(axis, 0).reshape(len(roots), -1).sum(1).double().numpy()
        if square:
            values = np.bincount(roots, values, top) ** 2
            totals += values
        else:
            totals += np.bincount(roots, values, top)
    return {root: float(totals[root]) for layer in structure.layers for root in layer.roots}


def _batches(model: FusedModel, dataset: Dataset | None, samples: int, seed: int, *, labelled: str | None) -> list[Any]:
    """Some training samples, drawn at random by ``seed``, as tensors."""
    check_data(labelled or "activation", dataset)
    assert dataset is not None  # just checked
    batches = [tensors(batch) for batch in dataset.batches("train", BATCH, shuffle=seed, limit=samples)]
    if labelled:
        lacking = [name for name in supervised_outputs(model.card) if name not in batches[0].truth]
        if lacking:
            raise PruneError(
                f"criterion '{labelled}' needs training data with labels.",
                why=f"the data has no column for output '{lacking[0]}'.",
                fix="add it, or set criterion: magnitude.",
            )
    return batches


def check_data(criterion: str, dataset: Dataset | None) -> None:
    """Raises PruneError where a criterion needs training data and there is none."""
    if criterion != "magnitude" and (dataset is None or not dataset.count("train")):
        raise PruneError(
            f"criterion '{criterion}' needs training data.",
            why="no dataset was given, or it has no train split.",
            fix="give data with -d, or set criterion: magnitude.",
        )


def score(
    criterion: str, model: FusedModel, found: Structure, dataset: Dataset | None, *, samples: int, seed: int, progress: Progress
) -> Mapping[int, float]:
    """Scores by the criterion's name."""
    if criterion == "magnitude":
        return magnitude(model, found)
    by = taylor if criterion == "taylor" else activation
    return by(model, found, dataset, samples=samples, seed=seed, progress=progress)
