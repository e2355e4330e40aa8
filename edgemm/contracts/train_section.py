"""Reading the ``train`` section of a card, or a train.yaml: every mistake is told at once, without torch."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from edgemm.contracts import options, plugins, training, written
from edgemm.contracts.card import Card, Input, Output
from edgemm.contracts.plugins import Option
from edgemm.contracts.training import AVERAGES, BALANCED, OPTIMIZERS, SCHEDULES, Choice, Numbers
from edgemm.errors import CardError, Collector, EdgemmError, nearest
from edgemm.store import utf8

NAME = "train"
AUGMENTATIONS = "augmentations"
KINDS_OF = "MODALITIES"
"""Constant at the top of an augmentation: the modalities that it can change."""
LENGTHS = ("epochs", "steps", "stages")
"""Options that say how long to train."""
CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "average": AVERAGES}
RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda value: value >= 1, "write at least 1."),
    "steps": (lambda value: value >= 1, "write at least 1."),
    "batch_size": (lambda value: value >= 2, "write at least 2: batch norm and contrastive losses need other rows beside them."),
    "accumulate": (lambda value: value >= 1, "write at least 1; 4 makes a step of four batches."),
    "learning_rate": (lambda value: 0 < value < math.inf, "write a number above 0, such as 0.001."),
    "weight_decay": (lambda value: 0 <= value < math.inf, "write a number of at least 0, such as 0.01."),
    "patience": (lambda value: value >= 0, "write at least 1 epoch, 0 for never, or leave it out."),
    "loss_weights": (lambda value: all(0 <= weight < math.inf for weight in value.values()), "write numbers of at least 0."),
    "label_smoothing": (lambda value: 0 <= value < 1, "write a share from 0 to below 1, such as 0.1."),
    "modality_dropout": (
        lambda value: all(0 <= chance < 1 for chance in (value.values() if isinstance(value, Mapping) else [value])),
        "write a chance from 0 to below 1, such as 0.1.",
    ),
    "mixup": (lambda value: 0 <= value < math.inf, "write a number of at least 0; 0.2 is usual."),
    "repeats": (lambda value: value >= 1, "write at least 1; 5 is usual."),
    "mixed_precision": (lambda value: value in ("no", "bf16", "fp16"), "write no, bf16 or fp16."),
}
"""Option -> whether a value can be, and what to write instead."""


def out_of_range(values: Mapping[str, Any], called: str, error: type[EdgemmError]) -> list[EdgemmError]:
    """A mistake for each value that cannot be, with ``called`` in front of its option's name; None is no value."""
    wrong = [
        error(f"{called}{name} is {values[name]!r}.", fix=fix)
        for name, (fits, fix) in RANGES.items()
        if values.get(name) is not None and not fits(values[name])
    ]
    if values.get("epochs") is not None and values.get("steps") is not None:
        wrong.append(error(f"{called}epochs and {called}steps are both given.", why="each says how long to train.", fix="keep one."))
    return wrong


def load(path: str | Path, card: Card) -> Mapping[str, Any]:
    """The options of a train.yaml, checked against a card.

    Raises:
        CardError: One mistake in it, or it cannot be read.
        Mistakes: Several.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        plain = written.load(text, lambda plain, place: means_text(place))
    except UnicodeDecodeError as err:
        raise CardError(f"cannot read {path}.", why=utf8.why(err), fix=utf8.fix(path, err)) from err
    except (OSError, yaml.YAMLError) as err:
        raise CardError(f"cannot read {path}.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
    if isinstance(plain, dict) and set(plain) == {NAME}:  # written as in a card
        plain = plain[NAME]
    mistakes = Collector()
    section = parse(plain, f"{path}: {NAME}", card.inputs, card.outputs, mistakes, folder=path.resolve().parent)
    mistakes.raise_if_any()
    return section


def over(section: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A section with another's options instead of its own; a length of one kind replaces those of all kinds."""
    replaced = LENGTHS if any(name in other for name in LENGTHS) else ()
    return {name: value for name, value in section.items() if name not in replaced} | dict(other)


def means_text(place: Sequence[Any]) -> bool:
    """Whether what stands at a place of the section is a word."""
    if place[:1] == ("stages",):
        return len(place) == 4 and place[2] == "freeze"
    return options.means_text(declared("Section"), place)


@cache
def declared(name: str) -> dict[str, Option]:
    """What a dataclass of ``training`` takes."""
    return plugins.fields_of(ast.parse(Path(training.__file__).read_text(encoding="utf-8")), name)


def choice(value: Any, known: Mapping[str, Numbers], where: str, error: type[EdgemmError]) -> tuple[Choice | None, list[EdgemmError]]:
    """A name, or ``{name: {option: number}}``, as a choice with all of its numbers; or what is wrong with it."""
    name, given = next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else (value, {})
    if not isinstance(name, str) or name not in known:
        return None, [error(f"{where} is {value!r}.", fix=nearest(str(name), known))]
    numbers = {
        key: Option(key, ast.Name("int" if isinstance(default, int) else "float"), default) for key, (default, _, _) in known[name].items()
    }
    mistakes = options.check({} if given is None else given, numbers, f"{where}.{name}", error)
    if mistakes:
        return None, mistakes
    chosen = {key: (given or {}).get(key, default) for key, (default, _, _) in known[name].items()}
    for key, (default, least, below) in known[name].items():
        if not least <= chosen[key] < below:
            fix = f"write a number from {least:g} to below {below:g}; {default:g} is usual."
            mistakes.append(error(f"{where}.{name}.{key} is {chosen[key]!r}.", fix=fix))
    return (None if mistakes else Choice(name, chosen)), mistakes


def parse(
    plain: Any, where: str, inputs: Mapping[str, Input], outputs: Mapping[str, Output], mistakes: Collector, *, folder: Path
) -> dict[str, Any]:
    """The section of a card with these inputs and outputs; every mistake of it is put into ``mistakes``.

    Args:
        folder: What paths in it are relative to; they are absolute afterwards.

    Returns:
        What is given: of ``Section`` but that ``augment`` is input -> [name, options] in the order of application, without modalities.
    """
    known = declared("Section")
    mistakes.errors += options.check(plain, known, where, CardError)
    if not isinstance(plain, Mapping):
        return {}
    plain = {key: value for key, value in plain.items() if key in known and options.fits(value, known[key].annotation)}
    checking = _Checking(where, inputs, outputs, mistakes)
    mistakes.errors += out_of_range(plain, f"{where}.", CardError)
    for key, choices in CHOICES.items():
        if plain.get(key) is not None:
            mistakes.errors += choice(plain[key], choices, f"{where}.{key}", CardError)[1]
    checking.names("loss_weights", plain.get("loss_weights", {}), outputs, "output")
    checking.names("balance", [plain["balance"]] if plain.get("balance") else [], outputs, "output")
    checking.class_weights(plain.get("class_weights", {}))
    dropout = plain.get("modality_dropout", 0.0)
    checking.names("modality_dropout", dropout if isinstance(dropout, Mapping) else [], checking.inputs_and_modalities, "input")
    checking.stages(plain)
    return dict(plain) | ({"augment": checking.augment(plain["augment"], folder)} if plain.get("augment") else {})


@dataclass(frozen=True)
class _Checking:
    """A section that is held against its card."""

    where: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    mistakes: Collector

    @property
    def inputs_and_modalities(self) -> list[str]:
        return list(dict.fromkeys([*self.inputs, *(spec.modality for spec in self.inputs.values())]))

    def add(self, what: str, *, why: str = "", fix: str) -> None:
        self.mistakes.add(CardError(f"{self.where}.{what}", why=why, fix=fix))

    def names(self, key: str, given: Collection[str], known: Collection[str], what: str) -> None:
        """Each of ``given`` has to be one of ``known``."""
        for name in given:
            if name not in known:
                self.add(f"{key} names '{name}', no {what} of this card.", fix=nearest(str(name), known))

    def class_weights(self, given: Mapping[str, Any]) -> None:
        self.names("class_weights", given, self.outputs, "output")
        for name, weights in given.items():
            if weights == BALANCED or name not in self.outputs:
                continue
            if not isinstance(weights, Mapping) or not weights or not all(_is_positive(weight) for weight in weights.values()):
                fix = f"write {name}: {BALANCED}, or {name}: {{label: 2.0}}; a label that is not named has 1."
                self.add(f"class_weights.{name} is {weights!r}.", fix=fix)
            elif labels := self.outputs[name].labels:
                self.names(f"class_weights.{name}", weights, labels, "label")

    def stages(self, plain: Mapping[str, Any]) -> None:
        """Each stage alone, and that nobody else says how long to train."""
        for number, stage in enumerate(plain.get("stages", ()), 1):
            here = f"stages.{number}"
            errors = options.check(stage, declared("Stage"), f"{self.where}.{here}", CardError)
            self.mistakes.errors += errors or out_of_range(stage, f"{self.where}.{here}.", CardError)
            if not errors:
                self.freezing(here, stage.get("freeze") or ())
        length = next((key for key in ("epochs", "steps") if plain.get("stages") and plain.get(key) is not None), None)
        if length:
            self.add(f"{length} and stages are both given.", why="each stage says how long it is.", fix=f"take {length} out.")

    def freezing(self, here: str, freeze: Sequence[str]) -> None:
        heads = [f"head:{name}" for name in self.outputs]
        self.names(f"{here}.freeze", freeze, [*self.inputs_and_modalities, "fusion", "head", *heads], "part")
        frozen = {name for name, spec in self.inputs.items() if {name, spec.modality} & set(freeze)}
        frozen |= {"fusion"} & set(freeze) | set(heads if "head" in freeze else freeze)
        if frozen >= {*self.inputs, "fusion", *heads}:
            self.add(f"{here} freezes everything: {', '.join(freeze)}.", why="nothing is left to be trained.", fix="leave one part out.")

    def augment(self, given: Mapping[str, Any], folder: Path) -> dict[str, list[list[Any]]]:
        """Input -> its augmentations; what stands for an input goes before what stands for its modality."""
        there = ", ".join(f"{name} ({spec.modality})" for name, spec in self.inputs.items())
        for key in given:
            if key not in self.inputs_and_modalities:
                what = f"augment.{key}: this card has no input '{key}'"
                what += f", and none of modality {key}." if key in plugins.names("modalities") else "."
                self.add(what, fix=f"name an input or a modality of it: {there}.")
        listed = {
            key: self.listed(f"augment.{key}", entries, self.inputs[key].modality if key in self.inputs else key, folder)
            for key, entries in given.items()
            if key in self.inputs_and_modalities
        }
        return {
            name: listed[name if name in listed else spec.modality]
            for name, spec in self.inputs.items()
            if name in listed or spec.modality in listed
        }

    def listed(self, here: str, entries: Any, modality: str, folder: Path) -> list[list[Any]]:
        """A list of names and ``{name: {options}}``, or one mapping of them."""
        if isinstance(entries, Mapping):
            entries = [{name: given} for name, given in entries.items()]
        if not isinstance(entries, list) or not all(isinstance(e, str) or (isinstance(e, Mapping) and len(e) == 1) for e in entries):
            self.add(f"{here} is no list of augmentations.", fix="write [flip, {rotate: {degrees: 10}}].")
            return []
        pairs = [(entry, {}) if isinstance(entry, str) else next(iter(entry.items())) for entry in entries]
        return [self.augmentation(here, str(name), {} if given is None else given, modality, folder) for name, given in pairs]

    def augmentation(self, here: str, name: str, given: Any, modality: str, folder: Path) -> list[Any]:
        fitting = [known for known in plugins.names(AUGMENTATIONS) if modality in (plugins.constant(AUGMENTATIONS, known, KINDS_OF) or ())]
        if name not in fitting:
            unknown = name not in plugins.names(AUGMENTATIONS)
            why = "" if unknown else f"it changes {', '.join(plugins.constant(AUGMENTATIONS, name, KINDS_OF) or ())}, not {modality}."
            self.add(f"{here}: there is no augmentation '{name}' of {modality}.", why=why, fix=nearest(name, fitting))
            return [name, {}]
        known = plugins.options(AUGMENTATIONS, name)
        errors = options.check(given, known, f"{self.where}.{here}.{name}", CardError)
        self.mistakes.errors += errors
        paths = {key for key, option in known.items() if options.mentions(option.annotation, "FolderPath")}
        placed = {} if errors else {key: str((folder / value).resolve()) if key in paths else value for key, value in given.items()}
        return [name, placed]


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
