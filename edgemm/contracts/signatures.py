"""What a function's source says of it: its parameters, their types and defaults, and what each means. Nothing is imported."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm.contracts.plugins import REQUIRED, ROOT

SECTIONS = ("Args:", "Attributes:")
ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*): (?P<text>.*)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        annotation: Its type, as the source has it.
        default: The value of a literal or of a constant; ``...`` where the source alone does not say, ``REQUIRED`` where there is none.
        is_keyword: Whether it can be given by name only.
        meaning: What the docstring says of it.
    """

    name: str
    annotation: ast.expr
    default: Any
    is_keyword: bool
    meaning: str


@dataclass(frozen=True)
class Signature:
    """A function: what it does (the docstring down to its first section), what it takes, what it returns."""

    about: str
    parameters: tuple[Parameter, ...]
    returns: str


def read(file: Path, function: str) -> Signature:
    """The function at the top of a Python file.

    Raises:
        KeyError: The file defines no such function.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}[function]
    docstring = ast.get_docstring(node) or ""
    meanings = entries(docstring)
    parameters = tuple(
        Parameter(argument.arg, argument.annotation or ast.Name("Any"), _value(default, tree), is_keyword, meanings.get(argument.arg, ""))
        for argument, default, is_keyword in _arguments(node.args)
    )
    return Signature(re.split(r"\n\n\w+:\n", docstring)[0], parameters, ast.unparse(node.returns) if node.returns else "")


def summary(file: Path) -> str:
    """The first line of a file's docstring, without the name it may begin with: "train a card's model" of ``edgemm train``."""
    with file.open(encoding="utf-8") as lines:
        return lines.readline().strip().removeprefix('"""').removesuffix('"""').rpartition("`: ")[2]


def entries(docstring: str) -> dict[str, str]:
    """The entries below ``Args:`` or ``Attributes:``."""
    lines = inspect.cleandoc(docstring).splitlines()
    begin = next((number for number, line in enumerate(lines) if line in SECTIONS), len(lines))
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in lines[begin + 1 :]:
        if not line.startswith("    "):
            break
        entry = ENTRY.fullmatch(line[4:])
        if entry:
            names = entry["names"].split(", ")
            texts.update(dict.fromkeys(names, entry["text"]))
        else:
            texts.update({name: f"{texts[name]} {line.strip()}" for name in names})
    return texts


def _arguments(arguments: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None, bool]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    yield from ((argument, default, False) for argument, default in zip(positional, defaults, strict=True))
    yield from ((argument, default, True) for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))


def _value(node: ast.expr | None, tree: ast.Module) -> Any:
    """What a default is; a constant is looked up in the file, or in the one of edgemm's that it is imported from."""
    if node is None:
        return REQUIRED
    if isinstance(node, ast.Name):
        for item in tree.body:
            if isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == node.id:
                return _value(item.value, tree)
            if isinstance(item, ast.ImportFrom) and node.id in (alias.name for alias in item.names):
                file = ROOT.parent / f"{(item.module or '').replace('.', '/')}.py"
                return _value(node, ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else ...
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...
