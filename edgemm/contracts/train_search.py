"""What a search of trainings varies: the ``search`` entry of a ``train`` section, every mistake told at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgemm.contracts import options, train_section
from edgemm.contracts.card import Card
from edgemm.contracts.search_section import SAMPLERS, SpaceSection
from edgemm.contracts.search_space import MEAN, Parameter, Search
from edgemm.errors import CardError, Collector, nearest

KEYS = ("sampler", "space", "batch")
KWARGS = "kwargs"
FIXED = ("seed", "search", "stages", "augment")
"""Options that are not searched by their names: seeds are no better or worse, the others are no single value."""
EXAMPLE = "search: {space: {learning_rate: {from: 1.0e-4, to: 1.0e-2, log: true}, batch_size: [32, 64]}}"


def parse(section: Mapping[str, Any], card: Card) -> Search:
    """The search that a section asks for: of its own options, and with ``kwargs.`` in front of what the card's factory is called with.

    Raises:
        CardError, Mistakes: It asks for none, or for what cannot be.
    """
    plain, mistakes = section.get("search"), Collector()
    if not isinstance(plain, Mapping) or not isinstance(plain.get("space"), Mapping) or not plain["space"]:
        raise CardError("there is nothing to search.", why="the card's train section names no search.space.", fix=f"write {EXAMPLE}")
    for key in plain:
        if key not in KEYS:
            mistakes.add(CardError(f"train.search: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    sampler, batch = plain.get("sampler", "tpe"), plain.get("batch", 1)
    if sampler not in SAMPLERS or sampler == "nsga2":
        mistakes.add(CardError(f"train.search.sampler: {sampler!r} is no sampler.", fix="write tpe, gp, random or grid."))
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        mistakes.add(CardError(f"train.search.batch is {batch!r}.", fix="write a whole number of at least 1."))
    reader = _Space([], "train.search.space", lambda *_: [], mistakes, section, card)
    space = [parameter for name, values in plain["space"].items() if (parameter := reader.named(str(name), values)) is not None]
    if sampler == "grid":
        reader.countable(space)
    mistakes.errors = [CardError(error.what, why=error.why, fix=error.fix) for error in mistakes.errors]
    mistakes.raise_if_any()
    return Search(sampler, {"accuracy": MEAN}, tuple(space), batch=batch)


def applied(section: Mapping[str, Any], card: Card, values: Mapping[str, Any]) -> tuple[dict[str, Any], Card]:
    """The section and the card that values of parameters mean."""
    whole = {"section": {key: value for key, value in section.items() if key != "search"}, KWARGS: dict(card.kwargs)}
    whole = copy.deepcopy(whole)
    for name, value in values.items():
        words = name.split(".")
        _put(whole if words[0] == KWARGS else whole["section"], words, value)
    return whole["section"], card.replace(kwargs=whole[KWARGS], train={})


@dataclass(frozen=True)
class _Space(SpaceSection):
    """The space of a section."""

    section: Mapping[str, Any]
    card: Card

    def named(self, name: str, values: Any) -> Parameter | None:
        """One parameter, if its name and every value of it can be."""
        words = name.split(".")
        known = train_section.declared("Section")
        if words[0] == KWARGS:
            if not self.leads(words):
                return None
        elif words[0] not in known or words[0] in FIXED:
            self.add(f": '{name}' is no option that can be searched.", fix=nearest(words[0], {*known, KWARGS} - {*FIXED}))
            return None
        place = Parameter(name, 0, words[0], ".".join(words[1:]))
        parameter = self.listed(place, values) if isinstance(values, list) else self.ranged(place, values)
        if parameter is None or words[0] == KWARGS:
            return parameter
        before = len(self.mistakes.errors)
        for value in parameter.ends():
            section, _ = applied(self.section, self.card, {name: value})
            found = Collector()
            train_section.parse(section, "train", self.card.inputs, self.card.outputs, found, folder=self.card.folder)
            for error in found.errors:
                self.mistakes.add(CardError(f"{self.here}.{name}: {error.what}", why=error.why, fix=error.fix))
        return parameter if len(self.mistakes.errors) == before else None

    def leads(self, words: list[str]) -> bool:
        """Whether a path leads to something that the card's factory is called with; what it is called there may be new."""
        at: Any = self.card.kwargs
        for place, word in enumerate(words[1:-1], 1):
            if not isinstance(at, Mapping) or word not in at:
                there = list(at) if isinstance(at, Mapping) else []
                self.add(f": '{'.'.join(words)}': the card has no {'.'.join(words[: place + 1])}.", fix=nearest(word, map(str, there)))
                return False
            at = at[word]
        if len(words) < 2 or not isinstance(at, Mapping):
            self.add(f": '{'.'.join(words)}' is nothing that could be set.", fix="write such as kwargs.fusion.concat.width.")
            return False
        return True

    def is_whole(self, place: Parameter) -> bool:
        if place.option != KWARGS:
            annotation = train_section.declared("Section")[place.option].annotation
            return not place.selector and options.fits(1, annotation) and not options.fits(1.5, annotation)
        at: Any = self.card.kwargs
        for word in place.selector.split("."):
            at = at.get(word) if isinstance(at, Mapping) else None
        return isinstance(at, int) and not isinstance(at, bool)


def _put(whole: dict[str, Any], words: list[str], value: Any) -> None:
    """Set what a path leads to; what is no mapping on the way becomes one."""
    for word in words[:-1]:
        if not isinstance(whole.get(word), dict):
            whole[word] = {}
        whole = whole[word]
    whole[words[-1]] = value
