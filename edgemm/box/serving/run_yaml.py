"""Reads ``run.yaml`` and checks it against the model: every mistake at once, before anything runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from edgemm.box.serving import gallery as galleries
from edgemm.box.serving import places
from edgemm.box.serving.secrets import refuse_passwords
from edgemm.box.serving.sections import declared, mapping, positive, section
from edgemm.box.serving.settings import (  # fmt: skip
    PER_CLASS,
    SINKS,
    SOURCES,
    THRESHOLD,
    DecisionSettings,
    DriftSettings,
    GateSettings,
    InputSettings,
    Part,
    Settings,
    WebSettings,
    names_of,
)
from edgemm.contracts import plugins, written
from edgemm.contracts.card import Card, Output
from edgemm.contracts.options import check, means_text
from edgemm.contracts.word_file import read_words
from edgemm.errors import Collector, RunError, nearest
from edgemm.redaction import redact
from edgemm.store import utf8

KEYS = (
    "name", "target", "decide_hz", "whole", "reuse", "shares", "inputs", "sources", "sinks", "decisions", "tracks", "zones", "lines", "web",
    "drift", "gates",
)  # fmt: skip
TEXTS = ("bind", "token_env", "token_file", "save", "key_env", "key_file")
FILES = ("gallery", "words")
"""Of a section of ``decisions``: files, that lie beside ``run.yaml`` or where the program was started."""
REUSE = get_args(get_type_hints(Settings)["reuse"])
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def load(
    path: str | Path | None, card: Card, *, extra: Mapping[str, Any] | None = None, instead: Mapping[str, Any] | None = None
) -> Settings:
    """Read ``run.yaml`` and check it against the model; without a path the defaults, and what the command line says.

    Args:
        extra: What the command line adds, in the form of ``run.yaml``; lists are added to the file's, other values win over it.
        instead: Keys that are taken from here and not from the file.

    Raises:
        RunError: One mistake. Mistakes: all of them.
    """
    plain: Any = {}
    if path is not None:
        try:
            plain = written.load(Path(path).read_text(encoding="utf-8"), _means_text) or {}
        except UnicodeDecodeError as err:
            raise RunError(f"cannot read {path}.", why=utf8.why(err), fix=utf8.fix(Path(path), err)) from err
        except (OSError, yaml.YAMLError) as err:
            raise RunError(f"cannot read {path}.", why=_reason(err), fix="mend the place it names.") from None
        plain = _beside(plain, Path(path).parent)
    plain = {**plain, **instead} if instead and isinstance(plain, dict) else plain
    return parse(_joined(plain, extra or {}), card, where=str(path) if path else "run")


def parse(plain: Any, card: Card, *, where: str = "run.yaml") -> Settings:
    """Make Settings of plain values, reporting every mistake at once.

    Raises:
        RunError, Mistakes: As ``load``.
    """
    if not isinstance(plain, dict):
        raise RunError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(KEYS)}.")
    mistakes = Collector()
    for key in plain:
        if key not in KEYS:
            mistakes.add(RunError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    settings = Settings(
        name=_device_name(plain.get("name", "edgemm"), where, mistakes),
        target=_target(plain.get("target"), f"{where}: target", mistakes),
        decide_hz=positive(plain.get("decide_hz", 5.0), f"{where}: decide_hz", mistakes),
        whole=_yes_or_no(plain.get("whole", False), f"{where}: whole", mistakes),
        reuse=_reuse(plain.get("reuse", "auto"), where, mistakes),
        shares=_yes_or_no(plain.get("shares", False), f"{where}: shares", mistakes),
        inputs=_inputs(plain.get("inputs"), card, where, mistakes),
        sources=_parts(plain.get("sources"), SOURCES, where, mistakes),
        sinks=_parts(plain.get("sinks"), SINKS, where, mistakes),
        decisions=_decisions(plain.get("decisions"), card, where, mistakes),
        tracks=places.tracks_of(plain.get("tracks"), card, where, mistakes),
        zones=places.zones_of(plain.get("zones"), card, where, mistakes),
        lines=places.lines_of(plain.get("lines"), card, where, mistakes),
        web=section(WebSettings, plain.get("web"), f"{where}: web", mistakes) if "web" in plain else None,
        drift=section(DriftSettings, plain.get("drift"), f"{where}: drift", mistakes) if "drift" in plain else None,
        gates=section(GateSettings, plain.get("gates"), f"{where}: gates", mistakes),
    )
    if settings.gates.shadow is not None and not 0 <= settings.gates.shadow <= 1:
        mistakes.add(
            RunError(f"{where}: gates.shadow: {settings.gates.shadow} is no share.", fix="write a number from 0 to 1, such as 0.1.")
        )
    _check_sources(settings, card, where, mistakes)
    places.check_pace(settings, card, where, mistakes)
    mistakes.raise_if_any()
    return settings


def _beside(plain: Any, folder: Path) -> Any:
    """With recordings that lie beside ``run.yaml``, and not where the program was started, called by their whole path."""
    decisions = plain.get("decisions") if isinstance(plain, dict) else None
    for options in decisions.values() if isinstance(decisions, dict) else []:
        for key in FILES if isinstance(options, dict) else ():
            if isinstance(options.get(key), str) and not os.path.exists(options[key]):
                options[key] = str(folder / options[key])
    sources = plain.get(SOURCES) if isinstance(plain, dict) else None
    for entry in sources if isinstance(sources, list) else []:
        for options in entry.values() if isinstance(entry, dict) else []:
            for key in ("path", "url") if isinstance(options, dict) else ():
                place = options.get(key)
                if isinstance(place, str) and not os.path.exists(place) and os.path.exists(folder / place):  # never raises
                    options[key] = str(folder / place)
    return plain


def _reason(err: Exception) -> str:
    """Why a file cannot be read, without the lines of it that PyYAML would show: a password may stand there."""
    if isinstance(err, yaml.MarkedYAMLError) and err.problem_mark is not None:
        return redact(f"{err.problem}, line {err.problem_mark.line + 1}, column {err.problem_mark.column + 1}.")
    return redact(" ".join(str(err).split()))


def _means_text(plain: Any, path: written.Path) -> bool:
    """Where run.yaml means a word: a name, a class, an option of a source or sink that is one."""
    if path[0] in (SOURCES, SINKS) and len(path) > 3 and path[2] in plugins.names(str(path[0])):
        return means_text(plugins.options(str(path[0]), str(path[2])), path[3:]) or path[3] == "inputs"
    if path[0] in ("decisions", "tracks"):
        return path[2:3] in (("quiet",), ("gallery",), ("words",))
    if path[0] in ("zones", "lines"):
        return path[2:3] in (("labels",), ("output",))
    return path in (("name",), ("reuse",)) or (path[0] in ("web", "drift") and str(path[-1]) in TEXTS)


def _joined(plain: Any, extra: Mapping[str, Any]) -> Any:
    if not isinstance(plain, dict):
        return plain
    joined = dict(plain)
    for key, value in extra.items():
        before = joined.get(key)
        if isinstance(value, list) and isinstance(before, list):  # what needs no options is not made twice
            kinds = [entry if isinstance(entry, str) else next(iter(entry), "") for entry in before if isinstance(entry, (str, dict))]
            value = [entry for entry in value if entry not in [{kind: {}} for kind in kinds]]
        joined[key] = [*(before or []), *value] if isinstance(value, list) and (before is None or isinstance(before, list)) else value
        if isinstance(value, dict) and isinstance(before, dict):
            joined[key] = {**before, **value}
    return joined


def _device_name(value: Any, where: str, mistakes: Collector) -> str:
    if not isinstance(value, str) or not value or not set(value) <= NAME:
        mistakes.add(
            RunError(
                f"{where}: name {value!r} cannot be used.", why="it stands in topics and ids.", fix="use letters, digits, _ and - only."
            )
        )
    return str(value)


def _target(value: Any, where: str, mistakes: Collector) -> str | None:
    if value is not None and value not in plugins.names("targets"):
        mistakes.add(RunError(f"{where}: there is no target '{value}'.", fix=nearest(str(value), plugins.names("targets"))))
    return None if value is None else str(value)


def _yes_or_no(value: Any, where: str, mistakes: Collector) -> bool:
    if not isinstance(value, bool):
        mistakes.add(RunError(f"{where}: {value!r} is neither true nor false.", fix="write true or false."))
    return value is True


def _reuse(value: Any, where: str, mistakes: Collector) -> Any:
    if value not in REUSE:
        mistakes.add(RunError(f"{where}: reuse is {value!r}.", fix=f"write {', '.join(REUSE[:-1])} or {REUSE[-1]}."))
    return value


def _inputs(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, InputSettings]:
    inputs = {}
    for name, value in mapping(plain, f"{where}: inputs", mistakes).items():
        if name not in card.inputs:
            mistakes.add(RunError(f"{where}: inputs.{name} is no input of this model.", fix=nearest(str(name), card.inputs)))
            continue
        inputs[name] = section(InputSettings, value, f"{where}: inputs.{name}", mistakes)
        _target(inputs[name].target, f"{where}: inputs.{name}.target", mistakes)
    return inputs


def _decisions(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, DecisionSettings]:
    decisions = {}
    for name, value in mapping(plain, f"{where}: decisions", mistakes).items():
        here = f"{where}: decisions.{name}"
        if name not in card.outputs:
            mistakes.add(RunError(f"{here} is no output of this model.", fix=nearest(str(name), card.outputs)))
            continue
        if name in places.frames_of(card):
            mistakes.add(RunError(f"{here}: '{name}' has boxes, which are followed.", fix=f"write tracks.{name}."))
            continue
        decisions[name] = settings = section(DecisionSettings, value, here, mistakes)
        labels = card.outputs[name].labels or ()
        if settings.gallery is not None:
            with mistakes.catch():
                labels = _known(settings.gallery, card.outputs[name], here)
        if settings.words is not None:
            with mistakes.catch():
                labels = tuple(read_words(Path(settings.words)))
        for label in (*settings.quiet, *settings.classes):
            if label not in labels:
                what = "nobody in its gallery" if settings.gallery is not None else "no class of this output"
                mistakes.add(RunError(f"{here}: '{label}' is {what}.", fix=nearest(str(label), labels) if labels else "leave it out."))
        of_a_class = {key: option for key, option in declared(DecisionSettings).items() if key in PER_CLASS}
        fitting: dict[str, dict[str, Any]] = {here: {}}
        for label, own in settings.classes.items():
            errors = check(own, of_a_class, f"{here}.classes.{label}", RunError)
            mistakes.errors += errors
            fitting |= {} if errors else {f"{here}.classes.{label}": own}
        _check_thresholds(settings, fitting, mistakes)
    return decisions


def _known(gallery: str, output: Output, where: str) -> tuple[str, ...]:
    """The names in a gallery; none where the file is still to be made."""
    if output.task != "embedding":
        raise RunError(
            f"{where}: a gallery is held against vectors, and '{output.name}' is of task {output.task}.",
            why="only an output of task embedding answers with a vector.",
            fix="remove gallery here.",
        )
    return galleries.load(Path(gallery)).labels if os.path.exists(gallery) else ()


def _check_thresholds(settings: DecisionSettings, changes: Mapping[str, Mapping[str, Any]], mistakes: Collector) -> None:
    """The settings as they are and with each of ``changes``, a class's own, by their place."""
    for where, own in changes.items():
        one = dataclasses.replace(settings, **own)
        threshold = THRESHOLD if one.threshold is None else one.threshold
        if not -1 <= threshold <= 1:
            mistakes.add(RunError(f"{where}.threshold: {threshold} is outside -1 to 1.", fix="write a score, such as 0.6."))
        if one.release is not None and not one.release <= threshold:  # nor where it is no number
            mistakes.add(
                RunError(
                    f"{where}.release: {one.release} is above the threshold {threshold}.",
                    why="a class would go off at the score that switches it on.",
                    fix="write a smaller one, or leave it out.",
                )
            )
        if one.debounce < 1:
            mistakes.add(RunError(f"{where}.debounce: {one.debounce} decisions.", fix="write at least 1."))
        if not one.cool_down_s >= 0:
            mistakes.add(RunError(f"{where}.cool_down_s: {one.cool_down_s}.", fix="write seconds, 0 or more."))


def _parts(plain: Any, kind: str, where: str, mistakes: Collector) -> tuple[Part, ...]:
    if plain is None:
        return ()
    if not isinstance(plain, list):
        mistakes.add(RunError(f"{where}: '{kind}' is not a list.", fix=f"{kind}: [{plugins.names(kind)[0]}: {{...}}]"))
        return ()
    parts = []
    for number, entry in enumerate(plain, 1):
        entry = {entry: {}} if isinstance(entry, str) else entry
        here = f"{where}: {kind} {number}"
        if not isinstance(entry, dict) or len(entry) != 1:
            mistakes.add(
                RunError(f"{here} is not one of them with its options.", fix=f"write `- {plugins.names(kind)[0]}: {{option: value}}`.")
            )
            continue
        (name, options) = next(iter(entry.items()))
        options = options or {}
        if name not in plugins.names(kind):
            mistakes.add(RunError(f"{here}: there is no {kind[:-1]} '{name}'.", fix=nearest(str(name), plugins.names(kind))))
        elif not isinstance(options, dict):
            mistakes.add(RunError(f"{here} ({name}): its options are not a mapping.", fix=f"write `- {name}: {{option: value}}`."))
        else:
            for error in check(options, plugins.options(kind, name), f"{here} ({name})", RunError):
                mistakes.add(error)
            for key, value in options.items():
                with mistakes.catch():
                    refuse_passwords(value, f"{here} ({name}).{key}")
            parts.append(Part(name, options))
    return tuple(parts)


def _check_sources(settings: Settings, card: Card, where: str, mistakes: Collector) -> None:
    """Every source feeds inputs of the model, and no input is fed twice."""
    taken: dict[str, str] = {name: "a value" for name, input_settings in settings.inputs.items() if input_settings.value is not None}
    for part in settings.sources:
        for name in names_of(part.options.get("inputs")):
            if name not in card.inputs:
                mistakes.add(
                    RunError(f"{where}: the source '{part.kind}' feeds '{name}', no input of this model.", fix=nearest(name, card.inputs))
                )
            elif name in taken:
                mistakes.add(RunError(f"{where}: '{name}' is fed twice, by {taken[name]} and by {part.kind}.", fix="keep one of them."))
            taken[name] = part.kind
    if not taken:
        mistakes.add(
            RunError(f"{where}: nothing feeds this model.", fix=f"--source {','.join(card.inputs)}=PLACE, or sources: in run.yaml.")
        )
