"""Rows of train as a model is to see them this time: augmented, with inputs taken away, mixed with each other.

An epoch of a seed is the same whatever ran before it and in any number of processes: random numbers begin anew with every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemm.contracts import augmentation as augmentations
from edgemm.contracts import task as tasks
from edgemm.contracts.augmentation import Augmentation
from edgemm.contracts.card import Card
from edgemm.contracts.dataset import Batch
from edgemm.contracts.modality import Modality, modalities
from edgemm.contracts.task import Task
from edgemm.errors import CardError, Collector


@dataclass(frozen=True)
class Changed:
    """A batch after it was changed.

    Attributes:
        share: What its own truth counts; ``other``, the truth of the rows that were mixed into it, counts the rest. None = not mixed.
    """

    batch: Batch
    share: float = 1.0
    other: Mapping[str, np.ndarray] | None = None


class Augmenter:
    """Changes batches of train.

    Args:
        augment: Input -> names and options of augmentations, in the order of application.
        dropout: Input or modality -> chance of being taken away from a row, or one for all inputs; a row keeps one of them.
        mixup: Alpha of the Beta distribution (Zhang et al., 2018); 0 = not mixed.

    Raises:
        CardError: An option out of range, or what cannot be done to this card; names the place.
        Mistakes: Several.
    """

    def __init__(
        self,
        card: Card,
        *,
        augment: Mapping[str, Sequence[Sequence[Any]]],
        dropout: float | Mapping[str, float] = 0.0,
        mixup: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._parts, self._tasks, self._seed, self._mixup = modalities(card), tasks.tasks(card), seed, mixup
        self._steps = {name: bool(spec.steps) for name, spec in card.inputs.items()}
        mistakes, self._of_input = Collector(), dict[str, list[Augmentation]]()
        for name, listed in augment.items():
            self._of_input[name] = []
            for kind, options in listed:
                with mistakes.catch():
                    made = augmentations.of(kind, options, f"train.augment.{name}")
                    self._require_followed(name, kind, made)
                    self._of_input[name].append(made)
        self._chances = {
            name: dropout.get(name, dropout.get(spec.modality, 0.0)) if isinstance(dropout, Mapping) else dropout
            for name, spec in card.inputs.items()
        }
        with mistakes.catch():
            self._require_mixable()
        with mistakes.catch():
            self._require_others()
        mistakes.raise_if_any()

    @property
    def does_anything(self) -> bool:
        """Whether a batch can come out other than it went in."""
        return bool(any(self._of_input.values()) or any(self._chances.values()) or self._mixup)

    @property
    def augmented_inputs(self) -> list[str]:
        """Inputs with augmentations, apart from what is taken away and mixed."""
        return [name for name in self._parts if self._of_input.get(name)]

    def files(self) -> list[Any]:
        """The files that augmentations read."""
        return [file for made in self._of_input.values() for one in made for file in one.files()]

    def change(self, batch: Batch, epoch: int, number: int) -> Changed:
        """The batch ``number`` of an epoch as the model is to learn from it."""
        changed = self._taken_away(self.augmented(batch, epoch, number), np.random.default_rng([self._seed, epoch, number, 1]))
        return self._mixed(changed, np.random.default_rng([self._seed, epoch, number, 2])) if self._mixup else Changed(changed)

    def augmented(self, batch: Batch, epoch: int, number: int) -> Batch:
        """A batch after its augmentations alone; nothing is taken away or mixed. What is missing stays so."""
        inputs, truth = dict(batch.inputs), dict(batch.truth)
        for place, name in enumerate(self._parts):
            rng = np.random.default_rng([self._seed, epoch, number, 3 + place])
            there = batch.present.get(name)
            for one in self._of_input.get(name, ()):
                samples, mirrored = self._apply(one, name, inputs[name], rng)
                if there is not None:
                    samples[~there] = inputs[name][~there]
                inputs[name] = samples
                if mirrored is not None and mirrored.any():
                    for output, task in self._followers(name).items():
                        if output in truth:
                            truth[output] = task.mirrored(truth[output], mirrored)
        return replace(batch, inputs=inputs, truth=truth)

    def _apply(self, one: Augmentation, name: str, samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Of an input with steps every step of a row is changed alike."""
        part = self._parts[name]
        if not self._steps[name]:
            changed = one.change(samples, rng, part)
            return np.array(changed.samples, samples.dtype), changed.mirrored
        each = [one.change(samples[:, step], copy.deepcopy(rng), part) for step in range(samples.shape[1])]
        rng.random()
        return np.stack([changed.samples for changed in each], axis=1).astype(samples.dtype), each[0].mirrored

    def _taken_away(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Inputs of rows become what stands in for an empty cell; one of those that are there stays."""
        if not any(self._chances.values()):
            return batch
        rows, names = len(batch.rows), list(self._parts)
        there = np.stack([batch.present.get(name, np.ones(rows, bool)) for name in names], axis=1)
        away = (rng.random(there.shape) < [self._chances[name] for name in names]) & there
        kept = rng.random(there.shape).argsort(axis=1)
        for row in np.flatnonzero((away == there).all(axis=1)):
            stays = next((place for place in kept[row] if there[row, place]), None)
            if stays is not None:
                away[row, stays] = False
        inputs = dict(batch.inputs)
        for place, name in enumerate(names):
            if away[:, place].any():
                inputs[name] = inputs[name].copy()
                inputs[name][away[:, place]] = self._parts[name].absent()
        present = {name: batch.present[name] & ~away[:, names.index(name)] for name in batch.present}
        return replace(batch, inputs=inputs, present=present)

    def _mixed(self, batch: Batch, rng: np.random.Generator) -> Changed:
        """Each row with another one of the batch, all by one share."""
        share = float(rng.beta(self._mixup, self._mixup))
        order = rng.permutation(len(batch.rows))
        inputs = {name: _blend(values, values[order], share) for name, values in batch.inputs.items()}
        return Changed(replace(batch, inputs=inputs), share, {name: values[order] for name, values in batch.truth.items()})

    def _followers(self, name: str) -> dict[str, Task]:
        """Outputs that say where things are in the picture of an input."""
        return {output: task for output, task in self._tasks.items() if name in task.parts}

    def _require_followed(self, name: str, kind: str, made: Augmentation) -> None:
        """Raises CardError where what an output says of places would no longer be true."""
        for output, task in self._followers(name).items() if made.moves else ():
            if kind in task.follows:
                continue
            able = f"it can follow {', '.join(task.follows)} alone." if task.follows else "its points cannot be followed."
            raise CardError(
                f"train.augment.{name}.{kind}: outputs.{output} says where things are in '{name}', and they would be somewhere else.",
                why=f"{task.unfollowed or able}",
                fix=f"leave {kind} out; colour, noise and erase move nothing.",
            )

    def _require_mixable(self) -> None:
        if not self._mixup:
            return
        whole = [name for name, part in self._parts.items() if part.vocabulary() is not None or _counts(part)]
        placed = [name for name, task in self._tasks.items() if task.parts or not task.has_truth]
        why = f"input '{whole[0]}' consists of ids, and there is none between two." if whole else ""
        why = why or (f"outputs.{placed[0]} has no truth that could be a part of two." if placed else "")
        if why:
            raise CardError(f"train.mixup is {self._mixup:g}.", why=why, fix="take mixup out, or set it to 0.")

    def _require_others(self) -> None:
        """Raises CardError where the only input would be taken away."""
        if len(self._parts) == 1 and any(self._chances.values()):
            only = next(iter(self._parts))
            raise CardError(
                "train.modality_dropout takes inputs away, and this model has one.",
                why=f"without '{only}' there is nothing to answer from.",
                fix="take modality_dropout out.",
            )


def _counts(part: Modality) -> bool:
    """Whether its numbers are whole and no pixels: 3 and 5 need not be 4 on average."""
    return np.dtype(part.dtype()).kind in "iub" and part.dtype() != "uint8"


def _blend(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    mixed = one.astype(np.float32) * np.float32(share) + other.astype(np.float32) * np.float32(1 - share)
    return np.rint(mixed).astype(one.dtype) if one.dtype.kind == "u" else mixed.astype(one.dtype)
