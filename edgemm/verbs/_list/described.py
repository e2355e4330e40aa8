"""One variant in full: its options with types, defaults and meanings, read from its source; nothing is imported."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm.contracts import plugins
from edgemm.contracts.options import in_words
from edgemm.contracts.plugins import Option
from edgemm.contracts.signatures import entries

WIDTH = 100  # columns: what a terminal beside an editor shows
NESTED = {
    ("modalities", "audio"): ("features: {log_mel: ...} or {mfcc: ...}", "data/modalities/_audio/mel.py", "Mel", ("rate_hz", "samples"))
}
"""Variant -> its options that have options: their title, file and class, and the fields that are no option."""
INPUTS = "Any input also takes optional (an empty cell = it is missing) and steps (so many values a row)."


@dataclass(frozen=True)
class DescribedOption:
    """An option: its type as the source says it and in words, its default (absent where ``required``) and its meaning."""

    type: str
    wants: str
    default: Any
    required: bool
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        default = {} if self.required else {"default": self.default}
        return {"type": self.type, "required": self.required, **default, "meaning": self.meaning}

    def lines(self, name: str) -> list[str]:
        """As people read it: the option, and its meaning below, indented."""
        last = "required" if self.required else f"default {_as_yaml(self.default)}"
        return [f"  {name}: {self.wants}; {last}", *textwrap.wrap(self.meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]


@dataclass(frozen=True)
class Variant:
    """One variant of a kind.

    Attributes:
        about: What it is, in a line.
        options: Name -> option.
        nested: Title of options within an option, "" where there are none; they are in ``inner``.
        note: A last sentence.
        text: The whole file, for recipes and cards; they have no options.
    """

    kind: str
    name: str
    about: str
    options: Mapping[str, DescribedOption] = field(default_factory=dict)
    nested: str = ""
    inner: Mapping[str, DescribedOption] = field(default_factory=dict)
    note: str = ""
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"about": self.about}
        if self.text:
            return plain | {"text": self.text}
        plain["options"] = {name: choice.to_dict() for name, choice in self.options.items()}
        return plain | ({"inner": {name: choice.to_dict() for name, choice in self.inner.items()}} if self.nested else {})

    def __str__(self) -> str:
        if self.text:
            return f"{self.kind}: {self.name}\n\n{self.text.rstrip()}"
        lines = [f"{self.kind}: {self.name}", f"  {_as_a_card_says(self.about)}", ""]
        lines += _all_lines(self.options) or ["  It has no options."]
        lines += ["", f"  {self.nested}", *("  " + line for line in _all_lines(self.inner))] if self.nested else []
        return "\n".join([*lines, *(["", f"  {self.note}"] if self.note else [])])


@dataclass(frozen=True)
class Described:
    """The variants of a name, one of each kind that has it."""

    variants: tuple[Variant, ...]

    def to_dict(self) -> dict[str, Any]:
        """Kind -> name -> what is known."""
        return {variant.kind: {variant.name: variant.to_dict()} for variant in self.variants}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.variants))


def describe(kind: str, name: str, about: str) -> Variant:
    """A variant.

    Raises:
        EdgemmError: There is no such variant; names the nearest one.
    """
    tree = ast.parse(plugins.source(kind, name).read_text(encoding="utf-8"))
    title, inner = "", dict[str, DescribedOption]()
    if (kind, name) in NESTED:
        title, file, cls, left_out = NESTED[kind, name]
        nested = ast.parse((plugins.ROOT / file).read_text(encoding="utf-8"))
        declared = {key: option for key, option in plugins.fields_of(nested, cls).items() if key not in left_out}
        inner = _choices(declared, _meanings(nested))
    note = INPUTS if kind == "modalities" else ""
    shared = plugins.shared_options(kind, name)
    meanings = _meanings(tree) if shared is None else {**_meanings(shared[0]), **_meanings(tree)}
    return Variant(kind, name, about, _choices(plugins.options(kind, name), meanings), title, inner, note)


def quote(kind: str, path: Path, about: str) -> Variant:
    """A recipe or a card: its file says everything."""
    return Variant(kind, path.stem, about, text=path.read_text(encoding="utf-8"))


def _choices(declared: Mapping[str, Option], meanings: Mapping[str, str]) -> dict[str, DescribedOption]:
    return {
        name: DescribedOption(
            ast.unparse(option.annotation),
            in_words(option.annotation),
            None if option.required else option.default,
            option.required,
            meanings.get(name, ""),
        )
        for name, option in declared.items()
    }


def _meanings(tree: ast.Module) -> dict[str, str]:
    """Name -> what the docstrings of classes, constructors and functions say of it; the first that does counts."""
    meanings: dict[str, str] = {}
    for node in _public(tree.body):
        for name, text in entries(ast.get_docstring(node, clean=True) or "").items():
            meanings.setdefault(plugins.option_name(name), _as_a_card_says(text))
    return meanings


def _public(body: Iterable[ast.stmt]) -> Iterable[ast.ClassDef | ast.FunctionDef]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")


def _as_a_card_says(text: str) -> str:
    """Without Python's marks and words."""
    return re.sub(r"\bNone\b", "null", text.replace("``", ""))


def _all_lines(choices: Mapping[str, DescribedOption]) -> list[str]:
    return [line for name, choice in choices.items() for line in choice.lines(name)]


def _as_yaml(value: Any) -> str:
    """As a card or recipe says it; a computed default as the source does."""
    return value if isinstance(value, str) and value else json.dumps(value)
