"""A card's ``factory: module:callable``: where its source lies, and importing it without disturbing anybody else. No torch here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from edgemm.contracts.card import Card
from edgemm.contracts.card_file import SHIPPED
from edgemm.contracts.joint import FACTORY
from edgemm.errors import CardError, CheckpointError, nearest
from edgemm.store import cache
from edgemm.store.artifact import sha256_file

_ours: dict[Path, dict[str, tuple[ModuleType, int]]] = {}
"""Root folder -> modules imported from there for a card, each with its file's mtime: two cards may both have a ``model.py``."""
MODEL_CONFIGS = ("config.json", "open_clip_config.json")
"""By one of these a folder is a model's."""


@dataclass(frozen=True)
class Place:
    """Where a factory lies.

    Attributes:
        module, attribute: The two halves of ``module:callable``.
        root: Folder to import it from; None when it comes from the import path.
        file: Its source file; None for a built-in or namespace module.
    """

    module: str
    attribute: str
    root: Path | None
    file: Path | None


def kind(card: Card) -> str:
    """``shipped`` (``models:<shipped card>``), ``hf`` (``hf:<AutoClass>``), ``members`` (models that ``edgemm fuse`` joined), or ``own``:
    the user's module, whatever it is called.
    """
    if card.joint is not None and card.factory == FACTORY:
        return "members"
    module, _, name = (card.factory or "").partition(":")
    if module == "hf" and name.startswith("Auto"):
        return "hf"
    if module != "models" or (SHIPPED / f"{name}.yaml").is_file():
        return "shipped" if module == "models" else "own"
    return "own" if any(_find_source(module, [str(root)]) for root in folders(card)) else "shipped"


def locate(card: Card) -> Place:
    """Find the factory's source without importing anything: ``source``, beside the card, the current directory, the import path.

    Raises:
        CardError: ``factory`` is not ``module:callable``, or there is no such module.
    """
    module, _, attribute = (card.factory or "").partition(":")
    if not attribute or not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise CardError(
            f"factory '{card.factory}' is not of the form module:callable.",
            fix="write e.g. `factory: porch.model:build`: the file porch/model.py and the function build in it.",
        )
    searched = folders(card)
    for root in searched:
        file = _find_source(module, [str(root)])
        if file:
            return Place(module, attribute, root, file)
    file = _find_source(module, None)
    if file is None and module not in sys.builtin_module_names:
        raise CardError(
            f"factory '{card.factory}': there is no module '{module}'.",
            why=f"looked in {', '.join(map(str, searched))} and on the import path.",
            fix=f"put {module.replace('.', '/')}.py beside the card, or name its folder as `source:`.",
        )
    return Place(module, attribute, None, file)


def folders(card: Card) -> list[Path]:
    """Folders in which a factory's module is looked up before the import path, first wins."""
    candidates = [*([card.folder / card.source] if card.source else []), card.folder, Path.cwd()]
    return list(dict.fromkeys(folder.resolve() for folder in candidates))


def call(card: Card, *, imported: Callable[[], None] = lambda: None) -> Any:
    """Import the factory and call it with the card's kwargs.

    Args:
        imported: Called between the two.

    Raises:
        CardError: No such module or callable, or it does not take these kwargs.
        CheckpointError: The module cannot be imported or the factory raised; names file and line.
    """
    location = locate(card)
    with importing(location):
        function = _import(card, location)
        _check_kwargs(card, location, function)
        imported()
        try:
            return function(**dict(card.kwargs))
        except (SystemExit, Exception) as err:
            if isinstance(err, (CardError, CheckpointError)):
                raise
            raise CheckpointError(
                f"factory '{card.factory}' failed at {where(err, card)}.",
                why=f"{type(err).__name__}: {err}.",
                fix="mend it there, or the card's kwargs that lead to it.",
            ) from err


def source_facts(card: Card) -> dict[str, str]:
    """What the factory's code is, for a cache key: file (relative to its root) -> sha256, for its file and all it imports from there.

    A module of an installed package is named by the package's version instead. Nothing is imported.

    Raises:
        CardError: As ``locate``.
    """
    location = locate(card)
    if location.file is None:
        return {location.module: sys.version}
    if location.root is None:
        top = location.module.partition(".")[0]
        return {location.module: sha256_file(location.file), top: cache.version(top)}
    files: dict[Path, None] = {}
    _collect(location.module, location.root, files)
    return {file.relative_to(location.root).as_posix(): sha256_file(file) for file in sorted(files)}


def leads_to_a_file(folder: Path, value: str) -> bool:
    """Whether a word among a card's kwargs is the path of a file, or of a model folder, relative to the card's ``folder``."""
    try:
        path = folder / value
        return bool(value) and (path.is_file() or any((path / name).is_file() for name in MODEL_CONFIGS))
    except (OSError, ValueError):  # too long, or holding a zero byte: words, not a path
        return False


def where(err: BaseException, card: Card) -> str:
    """``file:line`` of the innermost frame in the factory's own files (a syntax error's own place), else the innermost frame's."""
    if isinstance(err, SyntaxError) and err.filename:
        return f"{err.filename}:{err.lineno}"
    frames, trace = [], err.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    home = _home(card)
    mine = [frame for frame in frames if home and Path(frame[0]).is_relative_to(home)]
    file, line = (mine or frames)[-1]
    return f"{file}:{line}"


def _home(card: Card) -> Path | None:
    if kind(card) != "own":
        return None
    location = locate(card)
    return location.root or (location.file.parent if location.file else None)


@contextmanager
def importing(place: Place) -> Iterator[None]:
    """Let ``place.root`` come first on the import path, with its own modules under their names and no other folder's.

    Afterwards the path is as it was. A name that two cards' folders both have stays with the card loaded last; a name that the calling
    program had imported from elsewhere is the program's again.
    """
    if place.root is None:
        yield
        return
    root, path, bytecode = place.root, list(sys.path), sys.dont_write_bytecode
    theirs = _hide_others(place)
    sys.modules.update(_still_fresh(root))
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # no __pycache__ in the user's folders, no stale one read after an edit within a second
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, bytecode
        _ours[root] = {name: (module, _mtime(module)) for name, module in list(sys.modules.items()) if _belongs(name, module, root)}
        sys.modules.update(theirs)


def _find_source(module: str, path: list[str] | None) -> Path | None:
    """The file of a dotted module, found part by part so that no parent package is run."""
    *packages, last = module.split(".")
    for part in packages:
        spec = PathFinder.find_spec(part, path)
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    spec = PathFinder.find_spec(last, path)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin) if Path(spec.origin).suffix in (".py", ".pyc", ".so", ".pyd") else None


def _import(card: Card, location: Place) -> Callable[..., Any]:
    try:
        value: Any = importlib.import_module(location.module)
    except (SystemExit, Exception) as err:
        absent = err.name if isinstance(err, ModuleNotFoundError) else None
        raise CheckpointError(
            f"factory '{card.factory}': importing '{location.module}' failed at {where(err, card)}.",
            why=f"{type(err).__name__}: {err}.",
            fix=f"install '{absent}', or put it beside the card." if absent else "mend it there.",
        ) from err
    for part in location.attribute.split("."):
        if not hasattr(value, part):
            callables = [name for name, entry in vars(value).items() if callable(entry) and not name.startswith("_")]
            raise CardError(f"factory '{card.factory}': {location.file} has no '{part}'.", fix=nearest(part, callables))
        value = getattr(value, part)
    if not callable(value):
        raise CardError(f"factory '{card.factory}': '{location.attribute}' is a {type(value).__name__}, not callable.")
    factory: Callable[..., Any] = value
    return factory


def _check_kwargs(card: Card, location: Place, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some C callables have none
        return
    try:
        signature.bind(**card.kwargs)
    except TypeError as err:
        raise CardError(
            f"factory '{card.factory}' does not take the card's kwargs: {err}.",
            why=f"it is {location.attribute}{signature}; the card gives {', '.join(card.kwargs) or 'none'}.",
            fix="mend `kwargs:` in the card.",
        ) from err
    for key, value in card.kwargs.items():
        parameter = signature.parameters.get(key)
        named = set(re.findall(r"\w+", str(parameter.annotation))) if parameter and isinstance(value, bool) else set()
        if named & {"str", "Literal"} and not named & {"bool", "int", "float", "Any", "object", "True", "False"}:
            raise CardError(
                f"kwargs.{key} is {str(value).lower()}, and factory '{card.factory}' takes words there.",
                why="without quotes off, no, on and yes are false and true.",
                fix=f'write the word in quotes, such as {key}: "{"on" if value else "off"}".',
            )


def _hide_others(location: Place) -> dict[str, ModuleType]:
    """Take away loaded modules whose names ``location.root`` has too but which come from elsewhere; returns those no card brought."""
    assert location.root is not None
    root, top = location.root, location.module.partition(".")[0]
    cards = {name for modules in _ours.values() for name in modules}
    clashing = {name for name in {top, *(name.partition(".")[0] for name in cards)} if _find_source(name, [str(root)]) or name == top}
    theirs: dict[str, ModuleType] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in clashing and not _belongs(name, module, root):
            del sys.modules[name]
            theirs |= {} if name in cards else {name: module}
    return theirs


def _still_fresh(root: Path) -> dict[str, ModuleType]:
    """Modules imported from ``root`` before, unless one of their files changed since: then all are imported anew."""
    modules = _ours.get(root, {})
    if all(_mtime(module) == mtime for module, mtime in modules.values()):
        return {name: module for name, (module, _) in modules.items()}
    for name, (module, _) in modules.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    return {}


def _belongs(name: str, module: Any, root: Path) -> bool:
    """Whether a loaded module is the one that ``root`` has under this name."""
    file = getattr(module, "__file__", None)
    if file is None or name == "edgemm" or name.startswith("edgemm."):
        return False
    stem = root.joinpath(*name.split("."))
    return Path(file).resolve() in (stem.with_suffix(".py"), stem / "__init__.py")


def _mtime(module: ModuleType) -> int:
    try:
        return Path(str(module.__file__)).stat().st_mtime_ns
    except OSError:
        return 0


def _collect(module: str, root: Path, files: dict[Path, None]) -> None:
    """Add the source files under ``root`` that importing ``module`` runs: parents' ``__init__``, itself, and what those import."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        file = _find_source(".".join(parts[:end]), [str(root)])
        if file is None or file.suffix != ".py" or file in files or not file.is_relative_to(root):
            continue
        files[file] = None
        for name in _imports(file, ".".join(parts[:end])):
            _collect(name, root, files)


def _imports(file: Path, module: str) -> list[str]:
    """Absolute names a source file imports, wherever in it."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names += [prefix] if prefix else []
            names += [f"{prefix}.{alias.name}" if prefix else alias.name for alias in node.names]
    return names


def line_of(err: BaseException) -> str:
    """The last line outside installed packages that ``err`` came through, as ``file:line``."""
    frames = traceback.extract_tb(err.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{own[-1].filename}:{own[-1].lineno}"
