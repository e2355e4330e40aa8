"""`edgemm list`: what there is to choose from, read from the folders; nothing is imported."""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass
from pathlib import Path

from edgemm import plugins, recipe
from edgemm.card import SHIPPED
from edgemm.errors import EdgemmError, nearest

FOLDERS = {
    "steps": "steps",
    "targets": "targets",
    "modalities": "modalities",
    "encoders": "models/encoders",
    "fusions": "models/fusions",
    "heads": "models/heads",
    "sources": "runtime/sources",
    "sinks": "runtime/sinks",
}
KINDS = ("recipes", "cards", *FOLDERS)


@dataclass(frozen=True)
class Listing:
    """Kind -> name -> what it is, in one line."""

    entries: dict[str, dict[str, str]]

    def to_dict(self) -> dict[str, dict[str, str]]:
        return self.entries

    def __str__(self) -> str:
        width = max((len(name) for found in self.entries.values() for name in found), default=0)
        rows = {kind: [f"  {name:{width}}  {about}".rstrip() for name, about in found.items()] for kind, found in self.entries.items()}
        return "\n\n".join("\n".join([kind, *(lines or ["  (none)"])]) for kind, lines in rows.items())


def list(kind: str | None = None) -> Listing:
    """Everything that can be named in a card or a recipe.

    Args:
        kind: One of ``KINDS``; None lists all of them.

    Raises:
        EdgemmError: There is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise EdgemmError(f"nothing is listed under '{kind}'.", fix=nearest(kind, KINDS))
    return Listing({name: _entries(name) for name in KINDS if kind in (None, name)})


def _entries(kind: str) -> dict[str, str]:
    if kind == "recipes":
        return {path.stem: _first_comment(path) for path in _files(recipe.folder(), "*.yaml")}
    if kind == "cards":
        return {path.stem: _first_comment(path) for path in _files(SHIPPED, "*.yaml")}
    folder = FOLDERS[kind]
    return {name: _first_docstring_line(plugins.source(folder, name)) for name in plugins.names(folder)}


def _files(folder: Path, pattern: str) -> builtins.list[Path]:
    return sorted(folder.glob(pattern))


def _first_docstring_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _first_comment(path: Path) -> str:
    """What the first comment line says after its "For whom:" or "For:"."""
    first = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return first.partition(": ")[2] if first.startswith(("For whom: ", "For: ")) else first
