"""Sections of ``run.yaml``: a mapping to the dataclass that says what it may hold, every mistake noted."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from edgemm.contracts.options import check
from edgemm.contracts.plugins import Option
from edgemm.errors import Collector, RunError

ABOVE_ZERO = ("rate_hz", "stale_s", "window", "limit", "save_mib", "pictures_hz", "lost_s", "loitering_s", "every_s")


def section(kind: type, value: Any, where: str, mistakes: Collector) -> Any:
    """A dataclass of ``settings`` from its mapping; its own defaults where that is wrong, None where it has none for all."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        mistakes.add(RunError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(declared(kind))}."))
        return _of_defaults(kind)
    errors = check(value, declared(kind), where, RunError)
    for error in errors:
        mistakes.add(error)
    if errors:
        return _of_defaults(kind)
    settings = kind(**value)
    for key in ABOVE_ZERO:
        if getattr(settings, key, None) is not None:
            positive(getattr(settings, key), f"{where}.{key}", mistakes)
    return settings


def declared(kind: type) -> dict[str, Option]:
    """What a settings dataclass takes, for ``options.check``."""
    return {
        f.name: Option(f.name, ast.parse(str(f.type), mode="eval").body, *([] if _is_required(f) else [None]))
        for f in dataclasses.fields(kind)
    }


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _of_defaults(kind: type) -> Any:
    return None if any(map(_is_required, dataclasses.fields(kind))) else kind()


def mapping(value: Any, where: str, mistakes: Collector) -> Mapping[str, Any]:
    """A mapping, or an empty one where there is none."""
    if value is None or isinstance(value, dict):
        return value or {}
    mistakes.add(RunError(f"{where} is not a mapping.", fix="write `name: {option: value}`."))
    return {}


def positive(value: Any, where: str, mistakes: Collector) -> float:
    """A number above 0; 1 where it is none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        mistakes.add(RunError(f"{where}: {value!r} is not a number above 0.", fix="write a number, such as 5."))
        return 1.0
    return float(value)
