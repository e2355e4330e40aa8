"""Single rows explained: every form of a model asked about each, which input said what, and what in the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.box.bundle.deployment import ServedBundle
from edgemm.box.measuring.asking import Asked
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.explanation import HeadExplained, Heat, RowExplained, Said
from edgemm.contracts.modality import modalities
from edgemm.contracts.task import Arrays
from edgemm.data import labels as cells
from edgemm.data.explained import Question, agreement
from edgemm.data.occlusion.pieces import Pieces, pieces
from edgemm.data.one_row import OneRow
from edgemm.data.shares import shapley
from edgemm.errors import EdgemmError

Subset = tuple[str, ...]
Tell = Callable[[str, float], None]
Attribute = Callable[[OneRow, Question, Mapping[str, Pieces]], Mapping[str, np.ndarray]]
"""A row, what is asked of it and its pieces -> input -> a map of another kind."""


@dataclass(frozen=True)
class Form:
    """One form of the model.

    Attributes:
        name: In words.
        served: What runs.
    """

    name: str
    served: ServedBundle


def explain_rows(
    card: Card,
    forms: Sequence[Form],
    rows: Sequence[OneRow],
    *,
    reference: Arrays | None = None,
    label: str | None = None,
    attribute: Mapping[str, Attribute] | None = None,
    tell: Tell = lambda words, part: None,
) -> tuple[list[RowExplained], dict[str, int]]:
    """Ask every form about every row.

    Args:
        forms: The original first; what is explained is what the last one decides.
        reference: Output -> answers to the test rows, which say what is answered on average.
        label: Explain this label instead of the one decided for.
        attribute: Name -> maps of another kind, beside those of ``forms``.
        tell: What is being done, and how far it is.

    Returns:
        The rows, and form -> how many samples it answered.

    Raises:
        EdgemmError: No output has the label, or no output says what people could read.
    """
    calls: dict[str, int] = {}
    asked: dict[str, list[_Answered]] = {}
    own = [_Row.of(card, row) for row in rows]
    for form in forms:
        with Asked(form.served) as model:
            asked[form.name] = [_ask(model, row, lambda part: tell(f"{form.name}: pieces of row {row.row.number}", part)) for row in own]  # noqa: B023
            calls[form.name] = model.calls
    _require_label(card, label)
    explained = []
    for index, row in enumerate(own):
        answers = {name: answered[index] for name, answered in asked.items()}
        heads = [head for name in card.outputs if (head := _head(card, name, row, answers, reference, label, attribute or {}))]
        if not heads:
            raise EdgemmError(
                "there is nothing to explain.",
                why="no output of this model says what people could read.",
                fix="give an output of the card a task and labels.",
            )
        explained.append(RowExplained(row.row.number, row.row.split, _truth(card, row.row), heads))
    return explained, calls


@dataclass(frozen=True)
class _Row:
    """A row with its pieces.

    Attributes:
        there: Inputs that it has, with those that nobody sends.
        free: Those of them that somebody sends.
    """

    row: OneRow
    there: Subset
    free: Subset
    pieces: Mapping[str, Pieces]

    @classmethod
    def of(cls, card: Card, row: OneRow) -> _Row:
        own = modalities(card)
        there = tuple(name for name in card.inputs if name not in row.lacking)
        free = tuple(name for name in there if own[name].initial() is None)
        found = {
            name: pieces(own[name], row.inputs[name], None if card.inputs[name].steps else row.cells[name], row.folder) for name in free
        }
        return cls(row, there, free, {name: one for name, one in found.items() if one is not None})


@dataclass(frozen=True)
class _Answered:
    """What one form answers to a row: to each subset of its inputs, and without each piece of an input."""

    subsets: Mapping[Subset, Arrays]
    without: Mapping[str, Sequence[Arrays]]

    @property
    def whole(self) -> Arrays:
        """The answer to all inputs."""
        return max(self.subsets.items(), key=lambda entry: len(entry[0]))[1]


def _ask(model: Asked, row: _Row, tell: Callable[[float], None]) -> _Answered:
    subsets = model.subsets(row.row.inputs, row.there, row.free)
    without: dict[str, Sequence[Arrays]] = {}
    for number, (name, one) in enumerate(row.pieces.items()):
        tell(number / len(row.pieces))
        samples = map(one.without, one.blocks)
        without[name] = model.variants(row.row.inputs, row.there, name, samples, len(one.blocks))
    return _Answered(subsets, without)


def _head(
    card: Card,
    name: str,
    row: _Row,
    answers: Mapping[str, _Answered],
    reference: Arrays | None,
    label: str | None,
    attribute: Mapping[str, Attribute],
) -> HeadExplained | None:
    task = tasks.of(card.outputs[name])
    decided = list(answers.values())[-1].whole
    if not set(task.reads) <= decided.keys():
        return None
    has_label = label is not None and label in (card.outputs[name].labels or ())
    question = Question.about(task, decided, label if has_label else None)
    if question is None:
        return None
    usual = question.usual(reference)
    said = {form: _said(question, answered, row.free, usual) for form, answered in answers.items()}
    drops = {
        form: {
            own: np.array([question.strength(answered.whole) - question.strength(less) for less in lesser])
            for own, lesser in answered.without.items()
        }
        for form, answered in answers.items()
    }
    more = {kind: maps(row.row, question, row.pieces) for kind, maps in attribute.items()}
    heats = []
    for own, one in row.pieces.items():
        maps = {form: one.map(lost[own]) for form, lost in drops.items()}
        pair = [{own: lost[own]} for lost in list(drops.values())[:2]]
        maps |= {kind: found[own] for kind, found in more.items() if own in found}
        heats.append(Heat(own, one.canvas, maps, agreement(*pair, least=question.least) if len(pair) == 2 else None))
    both = list(drops.values())[:2]
    return HeadExplained(
        name, question.label, question.unit, said, heats, agreement(*both, least=question.least) if len(both) == 2 else None
    )


def _said(question: Question, answered: _Answered, free: Subset, usual: float) -> Said:
    shares: dict[str, float] = {}
    if len(answered.subsets) == 2 ** len(free) - 1:
        values = {subset: np.array([question.value(answer)]) for subset, answer in answered.subsets.items()}
        shares = dict(zip(free, shapley({**values, (): np.array([usual])}, free)[0].tolist(), strict=True))
    return Said(question.decision(answered.whole), question.value(answered.whole), usual, shares)


def _require_label(card: Card, label: str | None) -> None:
    known = {name: output.labels for name, output in card.outputs.items() if output.labels}
    if label is not None and not any(label in labels for labels in known.values()):
        listed = "; ".join(f"{name}: {', '.join(labels)}" for name, labels in known.items())
        raise EdgemmError(f"no output has a label '{label}'.", fix=f"take one of {listed}." if listed else "leave out --label.")


def _truth(card: Card, row: OneRow) -> dict[str, str]:
    """Output -> what the dataset says, where that is a word or a number."""
    known: dict[str, str] = {}
    for name, output in card.outputs.items():
        cell: Any = row.cells.get(name)
        if cells.is_empty(cell) or not isinstance(cell, (str, int, float, np.integer, np.floating)):
            continue
        labels, word = output.labels or (), str(cell)
        is_place = word not in labels and word.isdigit() and int(word) < len(labels)
        known[name] = labels[int(word)] if is_place else word
    return known
