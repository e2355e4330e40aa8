"""Which encoder, fusion and head a card asks for: read and checked from source text, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgemm.contracts import card_file as cards
from edgemm.contracts import options, plugins
from edgemm.contracts.card import Card
from edgemm.contracts.modality import of
from edgemm.errors import CardError, Collector, nearest

PREFIX = "models:"
FOLDER = "hf"  # the encoder that a folder is; its options may stand beside it
SECTIONS = ("encoders", "fusion", "heads")
Choice = tuple[str, dict[str, Any]]
"""A plugin's name and its options."""

Section = dict[str, Choice]


def choices(card: Card) -> tuple[Section, Choice, Section]:
    """Encoders by input name, the fusion, heads by output name.

    The card's own kwargs go over those of the shipped card: option by option where both name the same plugin, else whole.

    Raises:
        CardError: One mistake in the card's kwargs, with the nearest right word.
        Mistakes: Several.
    """
    errors = Collector()
    own, shipped = _read(card.kwargs, errors), _read(_shipped(card).kwargs, errors)
    errors.raise_if_any()
    tasks = {name: output.task for name, output in card.outputs.items()}
    kinds = {name: spec.modality for name, spec in card.inputs.items()}
    _refuse_unused(own["encoders"], kinds, "kwargs.encoders", "input or modality", errors)
    _refuse_unused(own["heads"], tasks, "kwargs.heads", "output or task", errors)
    encoders, heads = {}, {}
    for name, spec in card.inputs.items():
        with errors.catch():
            encoders[name] = _merged(own["encoders"], shipped["encoders"], (name, spec.modality)) or (
                of(spec, folder=card.folder).encoder(),
                {},
            )
    for name, output in card.outputs.items():
        with errors.catch():
            heads[name] = _merged(own["heads"], shipped["heads"], (name, output.task)) or (_head_for(name, output.task), {})
    fusion = _merged(own["fusion"], shipped["fusion"] if len(card.inputs) > 1 else {}, ("fusion",))
    errors.raise_if_any()
    return encoders, fusion or ("concat", {} if len(card.inputs) > 1 else {"width": None}), heads


def _shipped(card: Card) -> Card:
    """The shipped card that the factory names.

    Raises:
        CardError: There is none of that name.
    """
    name = (card.factory or "").removeprefix(PREFIX)
    names = [path.stem for path in cards.SHIPPED.glob("*.yaml")]
    if not (card.factory or "").startswith(PREFIX) or name not in names:
        raise CardError(f"factory '{card.factory}' names no reference model.", fix=nearest(name, names))
    return cards.load(cards.SHIPPED / f"{name}.yaml")


def _read(kwargs: Mapping[str, Any], errors: Collector) -> dict[str, Section]:
    """kwargs -> section -> key -> choice; the fusion stands alone under the key ``fusion``."""
    for key in kwargs:
        if key not in SECTIONS:
            errors.add(CardError(f"kwargs: unknown key '{key}'.", fix=nearest(str(key), SECTIONS)))
    sections: dict[str, Section] = {"encoders": {}, "fusion": {}, "heads": {}}
    for section in ("encoders", "heads"):
        entries = kwargs.get(section) or {}
        if not isinstance(entries, Mapping):
            errors.add(
                CardError(f"kwargs.{section}: {entries!r} is not a mapping.", fix=f"write {section}: {{<name>: {{<plugin>: {{}}}}}}.")
            )
            continue
        for key, value in entries.items():
            with errors.catch():
                sections[section][str(key)] = _choice(value, section, f"kwargs.{section}.{key}")
    if kwargs.get("fusion"):
        with errors.catch():
            sections["fusion"]["fusion"] = _choice(kwargs["fusion"], "fusions", "kwargs.fusion")
    return sections


def _choice(value: Any, plural: str, where: str) -> Choice:
    """``name`` or ``{name: {option: value}}``, checked against the plugin's options."""
    if isinstance(value, str):
        value = {value: {}}
    if plural == "encoders" and isinstance(value, Mapping) and isinstance(value.get(FOLDER), str):  # {hf: minilm/, freeze: true}
        value = {FOLDER: {"path": value[FOLDER], **{key: setting for key, setting in value.items() if key != FOLDER}}}
    if not isinstance(value, Mapping) or len(value) != 1:
        raise CardError(f"{where}: {value!r} is not one plugin with its options.", fix=f"write {{{plugins.names(plural)[0]}: {{}}}}.")
    name, settings = next(iter(value.items()))
    if name not in plugins.names(plural):
        kind = plugins.singular(plural)
        raise CardError(f"{where}: there is no {kind} '{name}'.", fix=nearest(str(name), plugins.names(plural)))
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise CardError(f"{where}.{name}: {settings!r} is not a mapping of options.", fix=f"write {name}: {{option: value}}.")
    errors = Collector()
    for error in options.check(settings, plugins.options(plural, name), f"{where}.{name}", CardError):
        errors.add(error)
    errors.raise_if_any()
    return str(name), dict(settings)


def _merged(own: Section, shipped: Section, keys: Iterable[str]) -> Choice | None:
    """The first of ``keys`` found in the card's own section, over the first found in the shipped one."""
    mine = next((own[key] for key in keys if key in own), None)
    theirs = next((shipped[key] for key in keys if key in shipped), None)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return mine or theirs
    return mine[0], {**theirs[1], **mine[1]}


def _refuse_unused(own: Section, kinds: Mapping[str, str], where: str, what: str, errors: Collector) -> None:
    """An entry that no input or output of the card would ever use is a typing mistake."""
    valid_keys = {*kinds, *kinds.values()}
    for key in own:
        if key not in valid_keys:
            errors.add(CardError(f"{where}: '{key}' is no {what} of this card.", fix=nearest(key, valid_keys)))


def _head_for(name: str, task: str) -> str:
    if task in plugins.names("heads"):
        return task
    others = ", ".join(other for other in plugins.names("tasks") if other in plugins.names("heads"))
    raise CardError(
        f"outputs.{name}: the reference models have no head for task '{task}'.",
        why="such an output has no meaning that could be trained.",
        fix=f"choose a task among {others}, or bring your own module.",
    )
