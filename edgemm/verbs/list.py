"""`edgemm list`: list what a card or recipe may name, and its options."""

from __future__ import annotations

import ast
import builtins
import difflib
from dataclasses import dataclass
from pathlib import Path

from edgemm.contracts import plugins, recipe
from edgemm.contracts.card_file import SHIPPED
from edgemm.errors import EdgemmError, nearest
from edgemm.verbs._list.described import Described, Variant, describe, quote

FILES = ("recipes", "cards")
KINDS = (*FILES, *(kind for kind in plugins.KINDS if kind not in ("verbs", "probes")))


@dataclass(frozen=True)
class Listing:
    """Kind -> name -> what it is, in one line."""

    entries: dict[str, dict[str, str]]

    def to_dict(self) -> dict[str, dict[str, str]]:
        return self.entries

    def __str__(self) -> str:
        width = max((len(name) for variants in self.entries.values() for name in variants), default=0)
        rows = {
            kind: [f"  {name:{width}}  {about}".rstrip() for name, about in variants.items()] for kind, variants in self.entries.items()
        }
        return "\n\n".join("\n".join([kind, *(lines or ["  (none)"])]) for kind, lines in rows.items())


def list(kind: str | None = None, name: str | None = None) -> Listing | Described:
    """Everything that can be named in a card or a recipe; or one of these with its options.

    Args:
        kind: One kind only, such as targets; or one variant, such as audio, which is looked for in all kinds.
        name: A variant of that kind: what options it takes. A recipe's or a card's file.

    Raises:
        EdgemmError: There is no such kind, or no such variant.
    """
    if kind is not None and kind not in KINDS:
        kinds = [other for other in KINDS if kind in _names(other)] if name is None else []
        if not kinds:
            raise EdgemmError(f"nothing is listed under '{kind}'.", fix=_nearest(kind))
        return Described(tuple(_described(other, kind) for other in kinds))
    if kind is not None and name is not None:
        if name not in _names(kind):
            raise EdgemmError(f"there is nothing called '{name}' among the {kind}.", fix=nearest(name, _names(kind)))
        return Described((_described(kind, name),))
    return Listing({each: _entries(each) for each in KINDS if kind in (None, each)})


def _described(kind: str, name: str) -> Variant:
    about = _entries(kind)[name]
    if kind in FILES:
        return quote(kind, _folder(kind) / f"{name}.yaml", about)
    return describe(kind, name, about)


def _nearest(word: str) -> str:
    """The kinds; where none is like ``word``, also the variant that is."""
    close = (
        [] if difflib.get_close_matches(word, KINDS) else difflib.get_close_matches(word, [name for kind in KINDS for name in _names(kind)])
    )
    return f"did you mean '{close[0]}'? {nearest(word, KINDS)}" if close else nearest(word, KINDS)


def _names(kind: str) -> builtins.list[str]:
    return [path.stem for path in _files(_folder(kind), "*.yaml")] if kind in FILES else plugins.names(kind)


def _folder(kind: str) -> Path:
    return recipe.folder() if kind == "recipes" else SHIPPED


def _entries(kind: str) -> dict[str, str]:
    if kind in FILES:
        return {path.stem: _first_comment(path) for path in _files(_folder(kind), "*.yaml")}
    return {name: _first_docstring_line(plugins.source(kind, name)) for name in plugins.names(kind)}


def _files(folder: Path, pattern: str) -> builtins.list[Path]:
    return sorted(folder.glob(pattern))


def _first_docstring_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _first_comment(path: Path) -> str:
    """What the first comment line says after its "For whom:" or "For:"."""
    first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return first.partition(": ")[2] if first.startswith(("For whom: ", "For: ")) else first
