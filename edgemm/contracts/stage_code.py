"""The code that a stage runs, from the module it is written in: all that it imports, step by step, and the plugins it can reach.

A stage lists nothing by hand: its module is where its function stands, what that imports is read from the source, and so is which kinds of
plugins are asked of the registry. What only a run knows is which plugin of a kind it is; a stage that knows it says so, and one that says
nothing depends on all of them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgemm.contracts import plugins
from edgemm.store import cache
from edgemm.store.artifact import sha256_file, sha256_of
from edgemm.store.code_digest import Code, reader

PACKAGE = "edgemm"
RUNS = ("load", "find", "function", "import_plugin")
"""Functions of the registry that import a plugin; the others read what it declares, which is among a stage's inputs where it matters."""


@dataclass(frozen=True)
class StageCode:
    """What a stage runs.

    Attributes:
        files: Python files, and files beside them that they name (a style sheet).
        digest: Of all of them; docstrings, comments and layout of the Python files do not count.
        packages: Distributions that these files import or name in ``PACKAGES``; some may not be installed, or go by another name.
    """

    files: tuple[Path, ...]
    digest: str
    packages: tuple[str, ...]

    def holds(self, module: str) -> bool:
        """Whether a module of edgemm is among the files."""
        return _file(module) in self.files


def of(module: str, *, only: Mapping[str, Iterable[str]] | None = None, without: Iterable[str] = ()) -> StageCode:
    """The code that a stage written in ``module`` runs.

    Args:
        module: Full name, such as ``edgemm.pipeline.stages``.
        only: Kind of plugin -> those that the stage uses, where it knows; beside them count those that the code names itself.
        without: Packages of edgemm that are not followed: what they do is not in the result, or may be of an older edgemm there.
    """
    narrowed = tuple(sorted((kind, tuple(sorted(set(names)))) for kind, names in (only or {}).items()))
    return _of(module, narrowed, tuple(without), cache.root(), tuple(map(str, plugins.folders("steps"))))


@functools.cache
def _of(
    module: str, only: tuple[tuple[str, tuple[str, ...]], ...], without: tuple[str, ...], root: Path, own: tuple[str, ...]
) -> StageCode:
    """``of`` for hashable arguments: once a process for each (``root`` and ``own`` change where what is read comes from)."""
    source = reader(root / "code")
    codes: dict[Path, Code] = {}
    others: set[Path] = set()
    waiting = [_required(module)]
    while waiting:
        path = waiting.pop()
        if path in codes or _is_in(path, without):
            continue
        code = codes[path] = source.read(path)
        beside = {file for word in code.strings if (file := path.with_name(word)).is_file()}
        waiting += [*_packages_around(path), *_leads_to(path, code, dict(only)), *(file for file in beside if file.suffix == ".py")]
        others |= {file for file in beside if file.suffix != ".py"}
    source.keep()
    named = sorted((_name(path), code.digest) for path, code in codes.items()) + sorted((_name(path), sha256_file(path)) for path in others)
    return StageCode(tuple(sorted({*codes, *others})), sha256_of(named), tuple(sorted(set(_packages(codes.values())))))


def _leads_to(path: Path, code: Code, only: Mapping[str, tuple[str, ...]]) -> Iterator[Path]:
    """Files that a file imports, starts as a program of their own, or reaches through the registry."""
    for module in (*code.imports, *code.strings):
        yield from _modules(module)
    for package in code.packages_under:
        yield from sorted(_folder(package).rglob("*.py")) if package.startswith(f"{PACKAGE}.") else ()
    if path == _file(f"{PACKAGE}.contracts.plugins"):
        return
    for function, kind_argument, name in code.calls:
        if function not in RUNS or kind_argument is None:
            continue
        kind = kind_argument if kind_argument in plugins.KINDS else plugins.plural(kind_argument)
        names = plugins.names(kind) if kind in plugins.KINDS else []
        possible = only.get(kind, names) if name is None else (name,)
        yield from (plugins.source(kind, plugin) for plugin in possible if plugin in names)


def _modules(name: str) -> Iterator[Path]:
    """The file of a module of edgemm, if it is one; the outermost package, which holds the user's names alone, is left out."""
    if name.startswith(f"{PACKAGE}.") and (path := _file(name)) is not None:
        yield path


def _packages_around(path: Path) -> Iterator[Path]:
    """The ``__init__.py`` of the packages that a file lies in, which run first; but the outermost."""
    for folder in path.parents if path.is_relative_to(plugins.ROOT) else ():
        if folder == plugins.ROOT:
            return
        yield from (init for init in [folder / "__init__.py"] if init.is_file())


def _required(module: str) -> Path:
    path = _file(module)
    assert path is not None, f"{module} is no module of edgemm"
    return path


@functools.cache
def _file(module: str) -> Path | None:
    path = _folder(module)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _folder(module: str) -> Path:
    return plugins.ROOT.joinpath(*module.split(".")[1:])


def _is_in(path: Path, packages: Iterable[str]) -> bool:
    return any(path.is_relative_to(_folder(package)) for package in packages)


def _name(path: Path) -> str:
    """Of a file in the digest: the same wherever edgemm is installed."""
    return path.relative_to(plugins.ROOT).as_posix() if path.is_relative_to(plugins.ROOT) else "/".join(path.parts[-2:])


def _packages(codes: Iterable[Code]) -> Iterator[str]:
    for code in codes:
        yield from code.packages
        tops = {name.partition(".")[0] for name in code.imports}
        yield from (name.replace("_", "-") for name in tops - sys.stdlib_module_names - {PACKAGE})
