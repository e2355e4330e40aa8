"""Reads ``run.yaml`` and checks it against the model: every mistake at once, before anything runs."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edgemm.box.serving.secrets import refuse_password
from edgemm.box.serving.settings import (  # fmt: skip
    PER_CLASS,
    SINKS,
    SOURCES,
    DecisionSettings,
    DriftSettings,
    InputSettings,
    Part,
    Settings,
    WebSettings,
    names_of,
)
from edgemm.contracts import plugins
from edgemm.contracts.card import Card
from edgemm.contracts.options import check
from edgemm.contracts.plugins import Option
from edgemm.errors import Collector, RunError, nearest

KEYS = ("name", "target", "decide_hz", "whole", "inputs", "sources", "sinks", "decisions", "web", "drift")
NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def load(path: str | Path | None, card: Card, *, extra: Mapping[str, Any] | None = None) -> Settings:
    """Read ``run.yaml`` and check it against the model; without a path the defaults, and what the command line says.

    Args:
        extra: What the command line adds, in the form of ``run.yaml``; lists are added to the file's, other values win over it.

    Raises:
        RunError: One mistake. Mistakes: all of them.
    """
    plain: Any = {}
    if path is not None:
        try:
            plain = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
            raise RunError(f"cannot read {path}.", why=" ".join(str(err).split()), fix="mend the place it names.") from err
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
        decide_hz=_positive(plain.get("decide_hz", 5.0), f"{where}: decide_hz", mistakes),
        whole=_yes_or_no(plain.get("whole", False), f"{where}: whole", mistakes),
        inputs=_inputs(plain.get("inputs"), card, where, mistakes),
        sources=_parts(plain.get("sources"), SOURCES, where, mistakes),
        sinks=_parts(plain.get("sinks"), SINKS, where, mistakes),
        decisions=_decisions(plain.get("decisions"), card, where, mistakes),
        web=_section(WebSettings, plain.get("web"), f"{where}: web", mistakes) if "web" in plain else None,
        drift=_section(DriftSettings, plain.get("drift"), f"{where}: drift", mistakes) if "drift" in plain else None,
    )
    _check_sources(settings, card, where, mistakes)
    mistakes.raise_if_any()
    return settings


def _joined(plain: Any, extra: Mapping[str, Any]) -> Any:
    if not isinstance(plain, dict):
        return plain
    joined = dict(plain)
    for key, value in extra.items():
        before = joined.get(key)
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


def _positive(value: Any, where: str, mistakes: Collector) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        mistakes.add(RunError(f"{where}: {value!r} is not a number above 0.", fix="write a number, such as 5."))
        return 1.0
    return float(value)


def _yes_or_no(value: Any, where: str, mistakes: Collector) -> bool:
    if not isinstance(value, bool):
        mistakes.add(RunError(f"{where}: {value!r} is neither true nor false.", fix="write true or false."))
    return value is True


def _section(kind: type, value: Any, where: str, mistakes: Collector) -> Any:
    """One of the dataclasses above from its mapping; its own defaults where that is wrong."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        mistakes.add(RunError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(_declared(kind))}."))
        return kind()
    errors = check(value, _declared(kind), where, RunError)
    for error in errors:
        mistakes.add(error)
    if errors:
        return kind()
    settings = kind(**value)
    for key in ("rate_hz", "stale_s", "window", "limit", "save_mib", "pictures_hz"):
        if getattr(settings, key, None) is not None:
            _positive(getattr(settings, key), f"{where}.{key}", mistakes)
    return settings


def _declared(kind: type) -> dict[str, Option]:
    """What a settings dataclass takes, for ``options.check``."""
    return {f.name: Option(f.name, ast.parse(str(f.type), mode="eval").body, None) for f in dataclasses.fields(kind)}


def _inputs(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, InputSettings]:
    inputs = {}
    for name, value in _mapping(plain, f"{where}: inputs", mistakes).items():
        if name not in card.inputs:
            mistakes.add(RunError(f"{where}: inputs.{name} is no input of this model.", fix=nearest(str(name), card.inputs)))
            continue
        inputs[name] = _section(InputSettings, value, f"{where}: inputs.{name}", mistakes)
        _target(inputs[name].target, f"{where}: inputs.{name}.target", mistakes)
    return inputs


def _decisions(plain: Any, card: Card, where: str, mistakes: Collector) -> dict[str, DecisionSettings]:
    decisions = {}
    for name, value in _mapping(plain, f"{where}: decisions", mistakes).items():
        here = f"{where}: decisions.{name}"
        if name not in card.outputs:
            mistakes.add(RunError(f"{here} is no output of this model.", fix=nearest(str(name), card.outputs)))
            continue
        decisions[name] = settings = _section(DecisionSettings, value, here, mistakes)
        labels = card.outputs[name].labels or ()
        for label in (*settings.quiet, *settings.classes):
            if label not in labels:
                mistakes.add(RunError(f"{here}: '{label}' is no class of this output.", fix=nearest(str(label), labels)))
        for label, own in settings.classes.items():
            for error in check(
                own, {k: v for k, v in _declared(DecisionSettings).items() if k in PER_CLASS}, f"{here}.classes.{label}", RunError
            ):
                mistakes.add(error)
        _check_thresholds(settings, here, mistakes)
    return decisions


def _check_thresholds(settings: DecisionSettings, here: str, mistakes: Collector) -> None:
    for where, own in ((here, {}), *((f"{here}.classes.{label}", own) for label, own in settings.classes.items())):
        one = dataclasses.replace(settings, **{key: value for key, value in own.items() if key in PER_CLASS})
        if not -1 <= one.threshold <= 1:
            mistakes.add(RunError(f"{where}.threshold: {one.threshold} is outside -1 to 1.", fix="write a score, such as 0.6."))
        if one.release is not None and one.release > one.threshold:
            mistakes.add(
                RunError(
                    f"{where}.release: {one.release} is above the threshold {one.threshold}.",
                    why="a class would go off at the score that switches it on.",
                    fix="write a smaller one, or leave it out.",
                )
            )
        if one.debounce < 1:
            mistakes.add(RunError(f"{where}.debounce: {one.debounce} decisions.", fix="write at least 1."))
        if one.cool_down_s < 0:
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
                    if isinstance(value, str):
                        refuse_password(value, f"{here} ({name}).{key}")
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


def _mapping(value: Any, where: str, mistakes: Collector) -> Mapping[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    mistakes.add(RunError(f"{where} is not a mapping.", fix="write `name: {option: value}`."))
    return {}
