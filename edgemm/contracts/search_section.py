"""Reading the ``search`` section of a recipe: every mistake is told at once, checked by the schemas of the steps themselves."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgemm.contracts import options, plugins
from edgemm.contracts.search_space import ACCURACY, LEAST, MEAN, Entries, Fidelity, Parameter, Search
from edgemm.errors import Collector, EdgemmError, RecipeError, nearest

KEYS = ("sampler", "objective", "space", "fidelity", "start", "seeds", "batch", "hints")
SAMPLERS = ("tpe", "gp", "random", "grid", "nsga2")
RANGE_KEYS = ("from", "to", "step", "log")
MOST_STEPS = 10_000  # values of a range; more are no choice

Check = Callable[[str, Mapping[str, Any], str], list[EdgemmError]]
"""What is wrong with a step: its name, its options, and the words for its place."""


def parse(
    plain: Any, entries: Entries, where: str, check: Check, mistakes: Collector, *, costs: Sequence[str], selectors: Sequence[str] | None,
    outputs: Sequence[str] | None,
) -> Search | None:  # fmt: skip
    """The section of a recipe, every mistake of it put into ``mistakes``; None where there are some.

    Args:
        entries: The recipe's steps.
        check: What is wrong with a step.
        costs: What an objective may want little of.
        selectors, outputs: Parts and outputs of the model; None = not known yet.
    """
    here = f"{where}: search"
    if not isinstance(plain, Mapping):
        mistakes.add(RecipeError(f"{here} is not a mapping.", fix="search: {space: {prune.macs_ratio: {from: 0.2, to: 0.7, step: 0.1}}}"))
        return None
    before = len(mistakes.errors)
    for key in plain:
        if key not in KEYS:
            mistakes.add(RecipeError(f"{here}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    sampler = plain.get("sampler", "tpe")
    if sampler not in SAMPLERS:
        mistakes.add(RecipeError(f"{here}.sampler: {sampler!r} is no sampler.", fix=nearest(str(sampler), SAMPLERS)))
    whole = SpaceSection(entries, here, check, mistakes)
    whole.counts(plain)
    whole.objective(plain.get("objective"), costs, outputs)
    section = SpaceSection(entries, f"{here}.space", check, mistakes)
    space, dropped = section.space(plain.get("space"), selectors)
    if sampler == "grid":
        section.countable(space)
    fidelity = SpaceSection(entries, f"{here}.fidelity", check, mistakes).fidelity(plain.get("fidelity"), space)
    start = plain.get("start") or []
    if not isinstance(start, list) or not all(isinstance(name, str) for name in start):
        mistakes.add(RecipeError(f"{here}.start is not a list of recipes.", fix="start: [prune50-distil-int8, openvino-int8]"))
    if not isinstance(plain.get("hints", False), bool):
        mistakes.add(RecipeError(f"{here}.hints: {plain['hints']!r} is neither true nor false.", fix="hints: true"))
    if len(mistakes.errors) > before:
        return None
    return Search(
        sampler, dict(plain.get("objective") or {}), space, fidelity, tuple(start), plain.get("seeds", 1), plain.get("batch", 4), dropped,
        plain.get("hints", False),
    )  # fmt: skip


def means_text(path: Sequence[Any]) -> bool:
    """Whether a choice at ``path`` below ``search`` is a word: the path goes on as ``("space", "prune.spread", 0)``."""
    if path[:1] == ("start",):
        return len(path) == 2
    if path[:1] != ("space",) or len(path) < 3 or not isinstance(path[2], int):
        return False
    step, *rest = (word for word in str(path[1]).split(".") if not word.isdigit())
    return step in plugins.names("steps") and options.means_text(plugins.options("steps", step), rest)


@dataclass(frozen=True)
class SpaceSection:
    """One place of the section that is being checked."""

    entries: Entries
    here: str
    check: Check
    mistakes: Collector

    def counts(self, plain: Mapping[str, Any]) -> None:
        for key, least in (("seeds", 1), ("batch", 1)):
            value = plain.get(key, least)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                self.add(f".{key}: {value!r} is not a whole number of at least {least}.", fix="write one, such as 3.")

    def objective(self, plain: Any, costs: Sequence[str], outputs: Sequence[str] | None) -> None:
        if plain is None:
            return
        advice = f"objective: {{{ACCURACY}: {next(iter(outputs or ['event']))}}}, or {{size_mib: {LEAST}}} beside or instead of it."
        if not isinstance(plain, Mapping) or not plain:
            self.add(".objective is not a mapping.", fix=advice)
            return
        for key, value in plain.items():
            if key == ACCURACY:
                if value != MEAN and outputs is not None and value not in outputs:
                    self.add(f".objective.{ACCURACY}: {value!r} is no output of this model.", fix=nearest(str(value), [*outputs, MEAN]))
            elif key not in costs:
                self.add(f".objective: '{key}' is nothing to aim at.", fix=nearest(str(key), [ACCURACY, *costs]))
            elif value != LEAST:
                self.add(f".objective.{key}: {value!r} is no aim.", fix=f"write {key}: {LEAST}.")

    def space(self, plain: Any, selectors: Sequence[str] | None) -> tuple[tuple[Parameter, ...], tuple[str, ...]]:
        if not isinstance(plain, Mapping) or not plain:
            self.add(" is missing or empty: there is nothing to search.", fix="space: {prune.macs_ratio: {from: 0.2, to: 0.7, step: 0.1}}")
            return (), ()
        places = {name: self.place(str(name)) for name in plain}
        found = {name: place for name, place in places.items() if place is not None}
        dropped = [name for name, place in found.items() if selectors is not None and _is_absent(place.selector, selectors)]
        space = [self.parameter(place, plain[name]) for name, place in found.items() if name not in dropped]
        for one, other in itertools.combinations(found.values(), 2):
            if (one.step, one.option) == (other.step, other.option) and "" in (one.selector, other.selector):
                self.add(f": {one.name} and {other.name} set the same option.", fix="keep one of them.")
        if dropped and len(dropped) == len(plain):
            self.add(
                f" names only what the model lacks: {', '.join(dropped)}.",
                fix=f"name its parts: {', '.join(selectors or ())}.",
            )
        return tuple(parameter for parameter in space if parameter is not None), tuple(dropped)

    def place(self, name: str) -> Parameter | None:
        """A parameter without its values, where the name means an option of one step."""
        words = name.split(".")
        step, rest = words[0], words[1:]
        number = int(rest.pop(0)) if rest and rest[0].isdigit() else 0
        places = [place for place, (known, _) in enumerate(self.entries) if known == step]
        if not places:
            self.add(f": '{name}' names no step of this recipe.", fix=nearest(step, {known for known, _ in self.entries}))
        elif not rest:
            self.add(f": '{name}' names no option.", fix=f"write {step}.<option>: {', '.join(sorted(plugins.options('steps', step)))}.")
        elif (number or 1) > len(places) or (len(places) > 1 and not number):
            fix = f"write {step}.1.{rest[0]} to {step}.{len(places)}.{rest[0]}." if len(places) > 1 else f"write {step}.{'.'.join(rest)}."
            self.add(f": '{name}': the recipe has {len(places)} steps '{step}'.", fix=fix)
        elif rest[0] not in (known := plugins.options("steps", step)):
            self.add(f": '{name}': {step} has no option '{rest[0]}'.", fix=nearest(rest[0], known))
        else:
            return Parameter(name, places[(number or 1) - 1], rest[0], ".".join(rest[1:]))
        return None

    def parameter(self, place: Parameter, plain: Any) -> Parameter | None:
        parameter = self.listed(place, plain) if isinstance(plain, list) else self.ranged(place, plain)
        if parameter is None:
            return None
        wrong: dict[str, EdgemmError] = {}
        for value in parameter.ends():
            name, step_options = self.entries[place.step][0], dict(self.entries[place.step][1])
            parameter.put(step_options, value)
            for error in self.check(name, step_options, f"{self.here}: {name}"):
                wrong.setdefault(error.what, error)
        for error in wrong.values():
            self.mistakes.add(error)
        return None if wrong else parameter

    def listed(self, place: Parameter, plain: list[Any]) -> Parameter | None:
        if not plain:
            self.add(f".{place.name} has no choice.", fix="write a list of values, such as [int8, fp32].")
            return None
        twice = next((value for number, value in enumerate(plain) if _is_in(value, plain[:number])), None)
        if twice is not None:
            self.add(f".{place.name}: {twice!r} stands there twice.", fix="name each choice once.")
            return None
        return replace(place, choices=tuple(plain))

    def ranged(self, place: Parameter, plain: Any) -> Parameter | None:
        here = f".{place.name}"
        if not isinstance(plain, Mapping):
            self.add(f"{here}: {plain!r} is neither a list nor a range.", fix="write [int8, fp32], or {from: 0.2, to: 0.7, step: 0.1}.")
            return None
        unknown = [key for key in plain if key not in RANGE_KEYS]
        missing = [key for key in ("from", "to") if not _is_number(plain.get(key))]
        if unknown or missing:
            for key in unknown:
                self.add(f"{here}: unknown key '{key}'.", fix=nearest(str(key), RANGE_KEYS))
            for key in missing:
                self.add(
                    f"{here}: '{key}' is no number.", fix="a range is {from: 0.2, to: 0.7, step: 0.1}, or {from: .., to: .., log: true}."
                )
            return None
        low, high, every, log = plain["from"], plain["to"], plain.get("step"), plain.get("log", False)
        wrong = {
            f" begins at {low:g} and ends at {high:g}.": low >= high,
            f": step is {every!r}.": every is not None and (not _is_number(every) or not 0 < every <= high - low),
            f": log is {log!r}.": not isinstance(log, bool),
            " has both step and log.": log is True and every is not None,
            f" is searched by its logarithm and begins at {low:g}.": log is True and low <= 0,
        }
        for words in (words for words, is_wrong in wrong.items() if is_wrong):
            self.add(f"{here}{words}", fix="from below to, a step between 0 and their distance; with log: true from above 0, and no step.")
        if any(wrong.values()):
            return None
        whole = self.is_whole(place)
        if whole and not all(isinstance(value, int) for value in (low, high, every or 1)):
            self.add(f"{here} is a whole number, and so are from, to and step.", fix="write whole numbers, such as {from: 1, to: 15}.")
            return None
        parameter = replace(place, low=low, high=high, every=every, log=log, whole=whole)
        return self.even(parameter)

    def even(self, parameter: Parameter) -> Parameter | None:
        """The range with its end on a step."""
        if parameter.every is None:
            return parameter
        count = (parameter.high - parameter.low) / parameter.every
        if count > MOST_STEPS:
            self.add(f".{parameter.name} has {count:.0f} values.", fix="take a longer step, or leave it out.")
            return None
        return replace(parameter, high=parameter.rounded(parameter.low + int(count + 1e-9) * parameter.every))

    def is_whole(self, place: Parameter) -> bool:
        """Whether the option takes whole numbers only."""
        annotation = plugins.options("steps", self.entries[place.step][0])[place.option].annotation
        if place.selector:
            annotation = next((value for value in map(_of_mapping, options.alternatives(annotation)) if value is not None), annotation)
        return options.fits(1, annotation) and not options.fits(1.5, annotation)

    def countable(self, space: Sequence[Parameter]) -> None:
        for parameter in space:
            if not parameter.grid():
                self.add(f".{parameter.name} has no steps, which a grid needs.", fix="add step: 0.1, or list the values.")

    def fidelity(self, plain: Any, space: Sequence[Parameter]) -> Fidelity | None:
        if plain is None:
            return None
        named = [key for key in plain if key != "keep"] if isinstance(plain, Mapping) else []
        if len(named) != 1 or not isinstance(plain[named[0]], list) or len(plain[named[0]]) < 2:
            self.add(" is not one option with its values.", fix="fidelity: {distill.epochs: [1, 4, 15], keep: 0.33}")
            return None
        if (keep := plain.get("keep", 1 / 3)) and not (_is_number(keep) and 0 < keep < 1):
            self.add(f".keep: {keep!r} is no share.", fix="write a number above 0 and below 1, such as 0.33.")
            return None
        place = self.place(str(named[0]))
        parameter = self.parameter(place, plain[named[0]]) if place is not None else None
        if parameter is None:
            return None
        if parameter.name in (other.name for other in space):
            self.add(f": {parameter.name} is searched too.", fix="take it out of space: fidelity says its values.")
            return None
        return Fidelity(parameter, parameter.choices, float(keep or 1 / 3))

    def add(self, what: str, *, fix: str) -> None:
        self.mistakes.add(RecipeError(f"{self.here}{what}", fix=fix))


def _of_mapping(annotation: ast.expr) -> ast.expr | None:
    """Of ``dict[Branch, float]`` what its entries are."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[_, item])):
            return item
    return None


def _is_absent(selector: str, selectors: Sequence[str]) -> bool:
    """Whether a selector is a modality of which the model has no input."""
    return selector in plugins.names("modalities") and selector not in selectors


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_in(value: Any, others: Sequence[Any]) -> bool:
    return any(value == other and type(value) is type(other) for other in others)
