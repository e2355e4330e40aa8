"""Check user-written options against what a plugin's source declares: names, types, required ones."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts.plugins import Option
from edgemm.errors import Collector, EdgemmError, nearest

SCALARS: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "dict": (dict,), "list": (list,), "None": (type(None),),
    "OutputName": (str,), "InputName": (str,), "FolderPath": (str,),
}  # fmt: skip

WORDS = {
    "int": ("a whole number", "whole numbers"), "float": ("a number", "numbers"), "str": ("text", "texts"),
    "bool": ("true or false", "true or false"), "dict": ("a mapping", "mappings"), "list": ("a list", "lists"), "None": ("null", "null"),
    "Branch": ("a branch", "branches"), "Labels": ("a list of names", "lists of names"),
    "OutputName": ("an output", "outputs"), "InputName": ("an input", "inputs"), "FolderPath": ("a folder", "folders"),
    "Any": ("anything", "anything"),
}  # fmt: skip
"""An annotation's name, in words: one, and several."""


def check(
    given: Any, declared: Mapping[str, Option], where: str, error: type[EdgemmError], *, skip: tuple[str, ...] = ()
) -> list[EdgemmError]:
    """Every mistake in ``given``: no mapping, unknown keys (with the nearest right one), wrong types, missing required ones.

    Args:
        given: Options as the user wrote them, whatever that is.
        declared: What the plugin takes (``plugins.options``).
        where: Place for the message, such as ``inputs.image``.
        error: Type of the errors made.
        skip: Keys that are somebody else's to check.
    """
    if not isinstance(given, Mapping):
        return [
            error(f"{where}: {_shown(given) if not isinstance(given, str) else repr(given)} is not a mapping.", fix="write option: value.")
        ]
    mistakes = Collector()
    for key, value in given.items():
        if key in skip:
            continue
        if key not in declared:
            mistakes.add(error(f"{where}: unknown key '{key}'.", fix=nearest(key, [*declared, *skip])))
        elif not fits(value, declared[key].annotation):
            mistakes.add(_misfit(f"{where}.{key}", value, declared[key].annotation, error))
    for key, option in declared.items():
        if option.required and key not in given:
            mistakes.add(error(f"{where}: '{key}' is missing.", fix=f"add {key}: <{in_words(option.annotation)}>."))
    return mistakes.errors


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
        case ast.Name(id="Retrainer"):
            return value in choices(annotation)
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=item):
            return isinstance(value, (list, tuple)) and all(fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, ast.Constant(value=x)])) if x is ...:
            return isinstance(value, (list, tuple)) and all(fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)):
            return isinstance(value, (list, tuple)) and len(value) == len(items) and all(map(fits, value, items))
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[key, item])):
            return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in value.items())
    return True


def means_text(declared: Mapping[str, Option], path: Sequence[Any]) -> bool:
    """Whether an option wants words at a place: ``path`` is its name, and where in its value."""
    option = declared.get(path[0]) if path else None
    if option is None:
        return False
    names = {node.id for node in ast.walk(option.annotation) if isinstance(node, ast.Name)}
    words = {"str", "Labels", "OutputName", "InputName", "FolderPath"}
    return bool(names & words) and not names & {
        "int",
        "float",
        "bool",
        "Any",
        "Literal",
    }


def selector_keys(value: Any, annotation: ast.expr) -> list[str]:
    """Branch selectors in an option's value: the keys of a mapping annotated ``dict[Branch, ...]``."""
    for node in ast.walk(annotation):
        match node:
            case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[ast.Name(id="Branch"), _])):
                return [str(key) for key in value] if isinstance(value, dict) else []
    return []


def mentions(annotation: ast.expr, name: str) -> bool:
    """Whether an annotation speaks of ``name``: as it is, in a union or in a list."""
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(annotation))


def in_words(annotation: ast.expr) -> str:
    """An annotation as a user reads it: "a whole number", "a list of numbers", "one of ptq, qat"; that null may stand there is left out."""
    match annotation:
        case ast.BinOp(op=ast.BitOr()):
            kinds = [kind for kind in alternatives(annotation) if ast.unparse(kind) != "None"]
            return " or ".join(dict.fromkeys(map(in_words, kinds))) or WORDS["None"][0]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=items)) if not _is_rest(items[-1]):
            return f"a list of {len(items)}: {', '.join(map(in_words, items))}"
        case ast.Subscript(value=ast.Name(id="list" | "dict" as kind), slice=ast.Name(id="Any") | ast.Tuple(elts=[_, ast.Name(id="Any")])):
            return WORDS[kind][0]
        case ast.Subscript(value=ast.Name(id="list" | "Sequence" | "tuple")):
            return f"a {_plural(annotation).replace('lists', 'list', 1)}"
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping")):
            return f"a {_plural(annotation).replace('mappings', 'mapping', 1)}"
        case ast.Subscript(value=ast.Name(id="Literal")) | ast.Name(id="Retrainer"):
            return f"{'one of ' if len(choices(annotation)) > 1 else ''}{', '.join(map(_shown, choices(annotation)))}"
    return WORDS.get(ast.unparse(annotation), (ast.unparse(annotation), ""))[0]


def choices(annotation: ast.expr) -> list[Any]:
    """The values of every ``Literal`` in a union, and the steps that a ``Retrainer`` may be."""
    values: list[Any] = []
    for kind in alternatives(annotation):
        match kind:
            case ast.Subscript(value=ast.Name(id="Literal"), slice=choice):
                values += [ast.literal_eval(entry) for entry in (choice.elts if isinstance(choice, ast.Tuple) else [choice])]
            case ast.Name(id="Retrainer"):
                values += plugins.saying("steps", "TRAINS_QUANTIZED")
    return values


def _misfit(where: str, value: Any, annotation: ast.expr, error: type[EdgemmError]) -> EdgemmError:
    allowed = [choice for choice in choices(annotation) if isinstance(choice, str)]
    if isinstance(value, str) and allowed:
        others = [kind for kind in alternatives(annotation) if not choices(kind) and ast.unparse(kind) != "None"]
        more = f", or write {' or '.join(map(in_words, others))}" if others else ""
        return error(f"{where}: unknown value '{value}'.", fix=f"{nearest(value, allowed)}{more}.")
    words = in_words(annotation)
    return error(f"{where}: {_shown(value) if not isinstance(value, str) else repr(value)} is not {words}.", fix=f"write {words}.")


def alternatives(annotation: ast.expr) -> list[ast.expr]:
    """The types that a union holds."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return [*alternatives(left), *alternatives(right)]
    return [annotation]


def _plural(annotation: ast.expr) -> str:
    match annotation:
        case ast.Subscript(value=ast.Name(id="list" | "Sequence"), slice=item):
            return f"lists of {_plural(item)}"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, *_])):
            return f"lists of {_plural(item)}"
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping"), slice=ast.Tuple(elts=[key, item])):
            return f"mappings of {_plural(key)} to {_plural(item)}"
    name = ast.unparse(annotation)
    return WORDS[name][1] if name in WORDS else in_words(annotation)


def _is_rest(item: ast.expr) -> bool:
    return isinstance(item, ast.Constant) and item.value is ...


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
