"""What one Python file says that can change a result: its code without docstrings, comments and layout, and what it leads to.

Parsing the package takes about a second, so what was read of a file is remembered in the cache under the hash of its bytes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemm.errors import OutputError
from edgemm.store.artifact import write_json

MOST_REMEMBERED = 3000
"""Files in the memory before those that this process did not read are dropped; the package has some 350."""
FORMAT = 1
"""Of the memory: what an older reading of the same bytes said is not believed."""
WORD = re.compile(r"[\w-]+(\.[\w-]+)+")


@dataclass(frozen=True)
class Code:
    """One file.

    Attributes:
        digest: Of its syntax tree, without the strings that stand alone (docstrings).
        imports: Full names of all that it imports, also inside functions; ``from a import b`` gives ``a`` and ``a.b``. What only the type
            checker sees is left out: it never runs.
        packages_under: Packages of which a module is imported by a name put together at run time, ``a.b`` of ``f"a.b.{name}"``.
        strings: String constants that look like a file's or a module's name: a file beside this one that it reads, a program it starts.
        calls: For each call of the registry its function, its first argument and, where it is written out, the second:
            ``("load", "Target", "onnxruntime")``. A name that is known at run time only is None.
        packages: What a constant ``PACKAGES`` lists: distributions that are called otherwise than their modules, or imported by name.
    """

    digest: str
    imports: tuple[str, ...]
    packages_under: tuple[str, ...]
    strings: tuple[str, ...]
    calls: tuple[tuple[str, str | None, str | None], ...]
    packages: tuple[str, ...]


class Reader:
    """Reads files, each once; the memory of earlier processes lies in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / f"python{sys.version_info.major}.{sys.version_info.minor}.json"
        self._memory = _remembered(self._place)
        self._used: dict[str, Any] = {}
        self._new = False

    def read(self, path: Path) -> Code:
        """What the file says.

        Raises:
            SyntaxError: It is no Python; a file of the user's own may be so.
        """
        content = path.read_bytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._used:
            if key not in self._memory:
                self._memory[key] = asdict(parse(content))
                self._new = True
            self._used[key] = self._memory[key]
        return _code(self._used[key])

    def keep(self) -> None:
        """Write the memory, if there is something new in it; a cache that cannot be written to is no error here."""
        if self._new:
            kept = self._memory if len(self._memory) <= MOST_REMEMBERED else self._used
            with suppress(OutputError):
                write_json(self._place, {"format": FORMAT, "files": kept})
            self._new = False


def parse(content: bytes) -> Code:
    """What the source of one file says."""
    tree = ast.parse(content)
    nodes = list(_that_run(tree))
    digest = hashlib.sha256(ast.dump(_Bare().visit(tree)).encode()).hexdigest()
    return Code(
        digest,
        tuple(sorted({name for node in nodes for name in _imports(node)})),
        tuple(sorted({name for node in nodes for name in _packages_under(node)})),
        tuple(sorted({node.value for node in nodes if _is_word(node)})),  # type: ignore[attr-defined]
        tuple(sorted({call for node in nodes for call in _registry_calls(node)}, key=str)),
        tuple(_packages(tree)),
    )


class _Bare(ast.NodeTransformer):
    """Drops expressions that are a string and nothing else: docstrings of modules, classes, functions and constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node


def _that_run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below a node but the bodies of ``if TYPE_CHECKING``."""
    is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", ""))
    for child in ast.iter_child_nodes(node) if not is_typing else node.orelse:  # type: ignore[attr-defined]
        yield child
        yield from _that_run(child)


def _imports(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom(module=str(module)):
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
            yield name


def _packages_under(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]), *_]):
            if start.endswith("."):
                yield start[:-1]


def _is_word(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and WORD.fullmatch(node.value) is not None


def _registry_calls(node: ast.AST) -> Iterator[tuple[str, str | None, str | None]]:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="plugins"), attr=function), args=[first, *rest]):
            kind = first.id if isinstance(first, ast.Name) else getattr(first, "value", None)
            name = getattr(rest[0], "value", None) if rest else None
            yield function, kind if isinstance(kind, str) else None, name if isinstance(name, str) else None


def _packages(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="PACKAGES")], value=ast.Tuple(elts=listed)):
                yield from (item.value for item in listed if isinstance(item, ast.Constant) and isinstance(item.value, str))


def _remembered(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
        return dict(plain["files"]) if plain["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _code(plain: dict[str, Any]) -> Code:
    lists = {key: tuple(value) for key, value in plain.items() if key not in ("digest", "calls")}
    return Code(digest=plain["digest"], calls=tuple((a, b, c) for a, b, c in plain["calls"]), **lists)


@functools.cache
def reader(folder: Path) -> Reader:
    """The reader of this process on a cache."""
    return Reader(folder)
