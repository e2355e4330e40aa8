"""Dataclasses as the plain values that JSON keeps, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

R = TypeVar("R")


def plain(value: Any) -> Any:
    """A dataclass, or lists and mappings of some, for strict JSON: what is not finite is None, which JSON has a word for."""
    if is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(kind: type[R], value: Any) -> R:
    """Back from ``plain``, and from what older versions wrote: fields that a dataclass does not know are left out.

    Args:
        kind: A dataclass, or ``list[...]`` or ``dict[str, ...]`` of some.

    Raises:
        TypeError, AttributeError: A field that has no default is missing, or something else than ``kind`` was written.
    """
    return cast("R", _read(kind, value))


def _read(hint: Any, value: Any) -> Any:
    types = [of for of in get_args(hint) if of is not NoneType]
    if value is None:
        return math.nan if hint is float else None
    if NoneType in get_args(hint):
        hint, types = types[0], list(get_args(types[0]))
    if hint is Path:
        return Path(value)
    if is_dataclass(hint):
        known = _hints(cast("type", hint))
        return cast("Any", hint)(**{name: _read(known[name], entry) for name, entry in value.items() if name in known})
    if isinstance(value, Mapping) and len(types) == 2:
        return {key: _read(types[1], entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and types:
        return (tuple if get_origin(hint) is tuple else list)(_read(types[0], entry) for entry in value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
