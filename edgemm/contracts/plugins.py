"""The folder is the registry: every file in a folder of variants is one plugin.

A file whose name starts with ``_`` is none. Nothing is imported before it is asked for, and the options a plugin takes are
read from its source text, so that recipes and cards are checked without importing torch. The environment variable
``EDGEMM_PLUGINS`` names folders of one's own (``targets/``, ``steps/``, ... in them), looked through after edgemm's.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import keyword
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from edgemm.errors import EdgemmError, MissingExtra, nearest

P = TypeVar("P")
ROOT = Path(__file__).parents[1]
KINDS: dict[str, tuple[str, ...]] = {
    "steps": ("workshop/steps",),
    "targets": ("box/targets", "workshop/targets"),
    "modalities": ("data/modalities",),
    "tasks": ("data/tasks",),
    "augmentations": ("data/augmentations",),
    "probes": ("box/measuring/probes",),
    "encoders": ("workshop/models/encoders",),
    "fusions": ("workshop/models/fusions",),
    "heads": ("workshop/models/heads",),
    "families": ("workshop/models/families",),
    "losses": ("workshop/training/losses",),
    "trackers": ("workshop/training/trackers",),
    "sources": ("box/serving/sources",),
    "sinks": ("box/serving/sinks",),
    "verbs": ("verbs",),
}
"""Kind of variant -> the folders under ``edgemm/`` that hold its plugins."""
OWN = "EDGEMM_PLUGINS"
"""Environment variable: folders, separated as PATH is, that hold plugins of one's own in a folder for each kind."""
REQUIRED = object()
"""Default of an option that has none."""

DISTRIBUTIONS = {"PIL": "pillow", "paho": "paho-mqtt", "tensorrt": "tensorrt-rtx"}
"""Third-party module -> the distribution that brings it, where the names differ by more than a dash."""
FOR_DEVELOPERS = "dev"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?P<versions>[^;]*);.*\bextra == ['\"](?P<extra>[\w-]+)['\"]")


@dataclass(frozen=True)
class Option:
    """One option of a plugin, as its source declares it."""

    name: str
    annotation: ast.expr
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def names(kind: str) -> list[str]:
    """Names of the plugins of a kind (``"targets"``, ``"encoders"``), sorted."""
    return sorted(_files(kind))


def folders(kind: str) -> list[Path]:
    """Where plugins of a kind lie: edgemm's folders, then those of one's own; the first file of a name counts."""
    own = [Path(root) / kind for root in os.environ.get(OWN, "").split(os.pathsep) if root]
    return [*(ROOT / folder for folder in KINDS[kind]), *own]


def _files(kind: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders(kind):
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                files.setdefault(path.stem, path)
    return files


def kind_of(protocol: type) -> str:
    """The kind of variant that a protocol describes: ``Target`` -> ``targets``, ``Modality`` -> ``modalities``, ``Loss`` -> ``losses``."""
    return plural(protocol.__name__)


def plural(protocol: str) -> str:
    """``kind_of`` for a protocol's name."""
    word = protocol.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("s") else f"{word}s"


def name_of(plugin: type) -> str:
    """The name a recipe or card has for a plugin's class: that of its file."""
    return plugin.__module__.rpartition(".")[2]


def find(protocol: type[P], name: str) -> type[P]:
    """The class in the plugin file ``name`` that names ``protocol`` as its base.

    Raises:
        EdgemmError: No such plugin; names the nearest one.
        MissingExtra: Its file needs a package that is not installed.
    """
    module = import_plugin(kind_of(protocol), name)
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and protocol in value.__mro__[1:]:
            return cast("type[P]", value)
    raise EdgemmError(
        f"{module.__name__} defines no class derived from {protocol.__name__}.",
        why="a plugin file holds one class that names its protocol as base.",
        fix=f"write `class {name.title().replace('_', '')}({protocol.__name__}):` there.",
    )


def load(protocol: type[P], name: str) -> P:
    """An instance of ``find(protocol, name)`` made without arguments."""
    return find(protocol, name)()


def function(kind: str, name: str) -> Any:
    """The function ``name`` of the plugin file ``name`` (compression steps)."""
    return getattr(import_plugin(kind, name), name)


def import_plugin(kind: str, name: str) -> Any:
    """Import the plugin's file, turning an unknown name or a missing package into an error with a fix."""
    path = source(kind, name)
    try:
        if path.is_relative_to(ROOT):
            return importlib.import_module(".".join(("edgemm", *path.relative_to(ROOT).with_suffix("").parts)))
        return _import_own(kind, path)
    except ModuleNotFoundError as err:
        raise missing_extra(err, f"{singular(kind)} '{name}'") from err


def _import_own(kind: str, path: Path) -> Any:
    """A file outside of the package, once a process."""
    dotted = f"edgemm_plugins.{kind}.{path.stem}"
    if dotted not in sys.modules:
        spec = importlib.util.spec_from_file_location(dotted, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018  (a .py file always has both)
        module = sys.modules[dotted] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[dotted]
            raise
    return sys.modules[dotted]


def missing_extra(err: ModuleNotFoundError, what: str) -> EdgemmError:
    """The error to show instead of ``err``: which extra brings the package."""
    package = (err.name or "").partition(".")[0]
    extra = extra_of(package)
    fix = f"pip install 'edgemm[{extra}]'" if extra else f"pip install {package}"
    return MissingExtra(f"{what} needs the package '{package}'.", why="it is not installed here.", fix=fix)


def extra_of(module: str) -> str | None:
    """The smallest extra of edgemm that brings a third-party module, as the installed package says; None where none does."""
    distribution = DISTRIBUTIONS.get(module, module).replace("_", "-").lower()
    extras = {extra: requirements for extra, requirements in _extras().items() if distribution in requirements and extra != FOR_DEVELOPERS}
    return min(extras, key=lambda extra: (len(extras[extra]), extra), default=None)


def requirements(extra: str) -> list[str]:
    """What an extra of edgemm brings, as pip takes it (``openvino>=2026.2``); [] where there is no such extra."""
    return [*_extras().get(extra, {}).values()]


def _extras() -> dict[str, dict[str, str]]:
    """Extra -> distribution -> requirement, as the installed package says."""
    from importlib import metadata  # it would slow every start down

    extras: dict[str, dict[str, str]] = {}
    with suppress(metadata.PackageNotFoundError):  # a copy that nobody installed
        for match in filter(None, map(REQUIREMENT.fullmatch, metadata.requires("edgemm") or ())):
            extras.setdefault(match["extra"], {})[match["name"].replace("_", "-").lower()] = match["name"] + match["versions"].strip()
    return extras


def singular(kind: str) -> str:
    """``targets`` -> ``target``, ``modalities`` -> ``modality``, ``losses`` -> ``loss``."""
    return f"{kind[:-3]}y" if kind.endswith("ies") else kind.removesuffix("es") if kind.endswith("sses") else kind[:-1]


def require_known(kind: str, name: str) -> None:
    """Raises EdgemmError unless there is a plugin of that name."""
    if name not in _files(kind):
        raise EdgemmError(f"there is no {singular(kind)} '{name}'.", fix=nearest(name, names(kind)))


def source(kind: str, name: str) -> Path:
    """The plugin's file."""
    require_known(kind, name)
    return _files(kind)[name]


@cache
def options(kind: str, name: str) -> dict[str, Option]:
    """The options of a plugin, read from its source without importing it.

    For a step: the keyword-only parameters of ``def <name>``. For a class: the annotated fields of its body, or, where it
    defines ``__init__``, the keyword-only parameters of that. Options that several plugins share are the fields of a dataclass which each
    names: ``SHARED = ("box/serving/broker.py", "Connection")``, file below ``edgemm/`` and class.
    """
    own, shared = _own_options(kind, name), shared_options(kind, name)
    return own if shared is None else own | fields_of(*shared)


def shared_options(kind: str, name: str) -> tuple[ast.Module, str] | None:
    """The parsed file and the name of the dataclass whose fields a plugin takes beside its own options."""
    shared = constant(kind, name, "SHARED")
    return (ast.parse((ROOT / shared[0]).read_text(encoding="utf-8")), shared[1]) if shared else None


def _own_options(kind: str, name: str) -> dict[str, Option]:
    tree = ast.parse(source(kind, name).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _parameters(node)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and node.bases:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    return _parameters(item)
            return _fields(node)
    return {}


def parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a plugin's constructor takes them: one that Python keeps the name of ends in ``_`` there (``from`` is ``from_``)."""
    return {f"{name}_" if keyword.iskeyword(name) else name: value for name, value in options.items()}


def fields_of(tree: ast.Module, name: str) -> dict[str, Option]:
    """The annotated fields of class ``name`` in a parsed source, as ``options`` reads them."""
    return next((_fields(node) for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), {})


@cache
def constant(kind: str, name: str, variable: str) -> Any:
    """A literal assigned at the top of a plugin's source (``STAGE``), or None; nothing is imported."""
    for node in ast.parse(source(kind, name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == variable:
            return ast.literal_eval(node.value)
    return None


def saying(kind: str, variable: str) -> list[str]:
    """Names of the plugins of a kind whose source says ``variable = ...`` at its top, and nothing empty; edgemm's before one's own."""
    return sorted((name for name in names(kind) if constant(kind, name, variable)), key=lambda name: is_own(kind, name))


def is_own(kind: str, name: str) -> bool:
    """Whether a plugin lies in a folder of one's own."""
    return not source(kind, name).is_relative_to(ROOT)


def packages(kind: str, name: str) -> tuple[str, ...]:
    """Distributions that change what a plugin computes, as its file lists them in ``PACKAGES``."""
    return tuple(constant(kind, name, "PACKAGES") or ())


def option_name(parameter: str) -> str:
    """What a card or recipe calls a parameter (``parameters``)."""
    return parameter[:-1] if parameter.endswith("_") and keyword.iskeyword(parameter[:-1]) else parameter


def _parameters(node: ast.FunctionDef) -> dict[str, Option]:
    parameters = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        annotation = argument.annotation or ast.Name("Any")
        name = option_name(argument.arg)
        parameters[name] = Option(name, annotation, REQUIRED if default is None else _literal(default))
    return parameters


def _fields(node: ast.ClassDef) -> dict[str, Option]:
    fields = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            if "ClassVar" in ast.unparse(item.annotation):
                continue
            default = REQUIRED if item.value is None else _literal(item.value)
            name = option_name(item.target.id)
            fields[name] = Option(name, item.annotation, default)
    return fields


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)  # a computed default: shown, never used
