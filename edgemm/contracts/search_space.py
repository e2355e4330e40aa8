"""What a recipe searches: which options, over what values, for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts.plain_values import plain

ACCURACY, MEAN, LEAST = "accuracy", "mean", "least"
"""What an objective says: accuracy of an output or of all on average, the least of what a budget is named after."""
DIGITS = 4  # of a number drawn from a range without steps: nobody means more, and a rounded one is found in the cache again

Entries = Sequence[tuple[str, Mapping[str, Any]]]
"""Steps of a recipe: name and options."""


@dataclass(frozen=True)
class Parameter:
    """One option that is searched.

    Attributes:
        name: As the recipe has it: ``prune.macs_ratio``, ``quantize.precision.audio``, ``prune.2.ratio`` for the second of two.
        step: Place of its step in the recipe.
        option: Of that step.
        selector: Entry of an option that is a mapping; "" = the option itself.
        choices: Values to choose from; () = a range.
        low, high: Ends of the range, both in it.
        every: Distance of its values from each other; None = any value.
        log: Whether it is searched by its logarithm.
        whole: Whether its values are whole numbers.
    """

    name: str
    step: int
    option: str
    selector: str = ""
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    every: float | None = None
    log: bool = False
    whole: bool = False

    def ends(self) -> tuple[Any, ...]:
        """The values by which it is checked: every choice, or both ends of the range."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def grid(self) -> tuple[Any, ...]:
        """All of its values; () where they cannot be counted."""
        if self.choices:
            return self.choices
        every = self.every or (1 if self.whole else None)
        if every is None:
            return ()
        return tuple(self.rounded(self.low + number * every) for number in range(int((self.high - self.low) / every + 1e-9) + 1))

    def rounded(self, value: float) -> float | int:
        """A number of the range as a person would write it: ``suggest_float(step=0.1)`` gives 0.30000000000000004, another cache key."""
        if self.whole:
            return round(value)
        if self.every is None:
            return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)
        step, low = Decimal(str(self.every)), Decimal(str(self.low))
        return float(low + step * round((Decimal(str(value)) - low) / step))

    def put(self, step_options: dict[str, Any], value: Any) -> None:
        """Write a value of it into the options of its step; of an option that is a mapping null leaves the entry out."""
        if not self.selector:
            step_options[self.option] = value
            return
        there = step_options.get(self.option)
        entries = {"default": there} if isinstance(there, str) else dict(there or {})  # ``precision: auto`` is that of the others
        entries.pop(self.selector, None)
        step_options[self.option] = entries | ({} if value is None else {self.selector: value}) or None

    def of(self, step_options: Mapping[str, Any], default: Any) -> Any:
        """Its value in somebody's options; ``default`` stands for an option that is not named."""
        value = step_options.get(self.option, default)
        if not self.selector:
            return value
        return value.get(self.selector) if isinstance(value, Mapping) else None

    def place(self, value: Any) -> Any:
        """The number by which a sampler knows a value that it holds: of a choice its place."""
        return next(place for place, choice in enumerate(self.choices) if _same(value, choice)) if self.choices else value

    def holds(self, value: Any) -> bool:
        """Whether it can take a value."""
        if self.choices:
            return any(_same(value, choice) for choice in self.choices)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not self.low <= value <= self.high:
            return False
        return self.rounded(value) == value


@dataclass(frozen=True)
class Fidelity:
    """Successive halving: every trial with the first value, the best ``keep`` of them with the next, and so on.

    Attributes:
        parameter: The option that costs time, such as ``distill.epochs``.
        values: From the cheapest to the one that counts.
        keep: Share that goes on.
    """

    parameter: Parameter
    values: tuple[Any, ...]
    keep: float = 1 / 3


@dataclass(frozen=True)
class Search:
    """A checked ``search`` section.

    Attributes:
        objective: ``{"accuracy": "event"}``, ``{"accuracy": "mean"}``, ``{"size_mib": "least"}``, or several; {} = as budgets suggest.
        start: Recipes that are tried first, as they are.
        seeds: Trainings of each model on the front.
        batch: Trials that are chosen at once, each knowing the results of those before; not of how many run at once.
        dropped: Parameters that name a modality which the model lacks.
        hints: Whether what each branch bears alone is looked at, for the first trials.
    """

    sampler: str = "tpe"
    objective: Mapping[str, Any] = field(default_factory=dict)
    space: tuple[Parameter, ...] = ()
    fidelity: Fidelity | None = None
    start: tuple[str, ...] = ()
    seeds: int = 1
    batch: int = 4
    dropped: tuple[str, ...] = ()
    hints: bool = False

    def applied(self, entries: Entries, values: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """Steps with values of parameters, by their names.

        What is an option's default anyway is left out: the same words as in a recipe written by hand are found in the cache again.
        """
        changed = [(name, dict(step_options)) for name, step_options in entries]
        for parameter in (*self.space, *([self.fidelity.parameter] if self.fidelity else [])):
            name, step_options = changed[parameter.step]
            if parameter.name in values:
                parameter.put(step_options, values[parameter.name])
                default = plugins.options("steps", name)[parameter.option].default
                if _same(step_options[parameter.option], default):
                    del step_options[parameter.option]
        return changed

    def values_of(self, entries: Entries, own: Entries) -> dict[str, Any] | None:
        """The values by which this space says the same as another recipe's steps; None where it cannot.

        Args:
            entries: The other's steps.
            own: Those of this recipe.
        """
        if [name for name, _ in entries] != [name for name, _ in own]:
            return None
        values = {}
        for parameter in self.space:
            name, step_options = entries[parameter.step]
            value = parameter.of(step_options, plugins.options("steps", name)[parameter.option].default)
            if not parameter.holds(value):
                return None
            values[parameter.name] = value
        written = self.applied(own, values)
        return values if [_known(entry) for entry in written] == [_known((name, dict(given))) for name, given in entries] else None

    def key(self) -> dict[str, Any]:
        """What the choice of trials depends on, as plain values."""
        return {
            "sampler": self.sampler, "objective": dict(self.objective), "batch": self.batch, "start": list(self.start),
            "space": [plain(parameter) for parameter in self.space],
            "fidelity": [self.fidelity.parameter.name, list(self.fidelity.values), self.fidelity.keep] if self.fidelity else None,
            **({"hints": True} if self.hints else {}),
        }  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same in a recipe, where true is not 1."""
    return one == other and type(one) is type(other)


def _known(entry: tuple[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A step with every option, those not named at their default."""
    name, step_options = entry
    return name, {option.name: option.default for option in plugins.options("steps", name).values()} | dict(step_options)
