"""Check user-written options against what a plugin's source declares: names, types, required ones."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from edgemm.errors import Collector, EdgemmError, nearest
from edgemm.plugins import Option

SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "dict": (dict,), "list": (list,), "None": (type(None),),
}  # fmt: skip


def check(
    given: Mapping[str, Any], declared: Mapping[str, Option], where: str, error: type[EdgemmError], *, skip: tuple[str, ...] = ()
) -> list[EdgemmError]:
    """Every mistake in ``given``: unknown keys (with the nearest right one), wrong types, missing required ones.

    Args:
        given: Options as the user wrote them.
        declared: What the plugin takes (``plugins.options``).
        where: Place for the message, such as ``inputs.image``.
        error: Type of the errors made.
        skip: Keys that are somebody else's to check.
    """
    found = Collector()
    for key, value in given.items():
        if key in skip:
            continue
        if key not in declared:
            found.add(error(f"{where}: unknown key '{key}'.", fix=nearest(key, [*declared, *skip])))
        elif not fits(value, declared[key].annotation):
            wants = ast.unparse(declared[key].annotation)
            found.add(error(f"{where}.{key}: {value!r} is not {_article(wants)}.", fix=f"write a value of type {wants}."))
    for key, option in declared.items():
        if option.required and key not in given:
            wants = ast.unparse(option.annotation)
            found.add(error(f"{where}: '{key}' is missing.", fix=f"add {key}: <{wants}>."))
    return found.errors


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether ``value``, read from YAML, is of the annotated type.

    Understands int, float, str, bool, None, list[X], tuple[X, ...], dict[K, V], Literal[...], unions by ``|``, and passes
    whatever else is annotated.
    """
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name) if name in SCALARS:
            return isinstance(value, SCALARS[name]) and (name == "bool" or not isinstance(value, bool))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choice):
            return value in ast.literal_eval(ast.Tuple(choice.elts if isinstance(choice, ast.Tuple) else [choice], ast.Load()))
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=item):
            return isinstance(value, (list, tuple)) and all(fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, ast.Constant(value=x)])) if x is ...:
            return isinstance(value, (list, tuple)) and all(fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)):
            return isinstance(value, (list, tuple)) and len(value) == len(items) and all(map(fits, value, items))
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[key, item])):
            return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    return True


def selector_keys(value: Any, annotation: ast.expr) -> list[str]:
    """Branch selectors in an option's value: the keys of a mapping annotated ``dict[Branch, ...]``."""
    for node in ast.walk(annotation):
        match node:
            case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[ast.Name(id="Branch"), _])):
                return [str(key) for key in value] if isinstance(value, dict) else []
    return []


def _article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
