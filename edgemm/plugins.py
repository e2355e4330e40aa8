"""The folder is the registry: every file in a folder of variants is one plugin.

A file whose name starts with ``_`` is none. Nothing is imported before it is asked for, and the options a plugin takes are
read from its source text, so that recipes and cards are checked without importing torch.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from edgemm.errors import EdgemmError, MissingExtra, nearest

P = TypeVar("P")
ROOT = Path(__file__).parent
REQUIRED = object()
"""Default of an option that has none."""

EXTRAS = {
    "openvino": "openvino", "onnxruntime": "onnxruntime", "tensorrt": "tensorrt-rtx", "tensorrt_rtx": "tensorrt-rtx",
    "PIL": "data", "soundfile": "data", "tokenizers": "data", "pyarrow": "data", "cryptography": "sign",
    "torch": "compress", "torchao": "compress", "onnx": "compress", "onnxscript": "compress", "onnx_ir": "compress",
    "nncf": "compress", "accelerate": "compress", "safetensors": "compress", "transformers": "compress",
    "torchmetrics": "compress",
    "av": "run", "paho": "run", "starlette": "run", "uvicorn": "run", "prometheus_client": "run",
}  # fmt: skip
"""Third-party module -> the extra of pyproject.toml that brings it."""


@dataclass(frozen=True)
class Option:
    """One option of a plugin, as its source declares it."""

    name: str
    annotation: ast.expr
    default: Any = REQUIRED

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def names(folder: str) -> list[str]:
    """Names of the plugins in ``edgemm/<folder>`` (``"targets"``, ``"models/encoders"``), sorted."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if not path.name.startswith("_"))


def find(protocol: type[P], name: str, *, folder: str | None = None) -> type[P]:
    """The class in the plugin file ``name`` that names ``protocol`` as its base.

    Args:
        folder: Where the file lies (``"models/encoders"``); by default the folder that holds the protocol.

    Raises:
        EdgemmError: No such plugin; names the nearest one.
        MissingExtra: Its file needs a package that is not installed.
    """
    package = protocol.__module__.rpartition(".")[0]
    module = import_plugin(folder or package.removeprefix("edgemm.").replace(".", "/"), name)
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


def function(folder: str, name: str) -> Any:
    """The function ``name`` of plugin file ``edgemm/<folder>/<name>.py`` (compression steps)."""
    return getattr(import_plugin(folder, name), name)


def import_plugin(folder: str, name: str) -> Any:
    """Import ``edgemm/<folder>/<name>.py``, turning an unknown name or a missing package into an error with a fix."""
    require_known(folder, name)
    dotted = f"edgemm.{folder.replace('/', '.')}.{name}"
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as err:
        raise missing_extra(err, f"{folder.rstrip('s')} '{name}'") from err


def missing_extra(err: ModuleNotFoundError, what: str) -> EdgemmError:
    """The error to show instead of ``err``: which extra brings the package."""
    package = (err.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    fix = f"pip install 'edgemm[{extra}]'" if extra else f"pip install {package}"
    return MissingExtra(f"{what} needs the package '{package}'.", why="it is not installed here.", fix=fix)


def require_known(folder: str, name: str) -> None:
    """Raises EdgemmError unless ``edgemm/<folder>/<name>.py`` exists."""
    if name not in names(folder):
        kind = folder.rpartition("/")[2].removesuffix("ies") + "y" if folder.endswith("ies") else folder.rpartition("/")[2][:-1]
        raise EdgemmError(f"there is no {kind} '{name}'.", fix=nearest(name, names(folder)))


def source(folder: str, name: str) -> Path:
    """The plugin's file."""
    require_known(folder, name)
    return ROOT / folder / f"{name}.py"


@cache
def options(folder: str, name: str) -> dict[str, Option]:
    """The options of a plugin, read from its source without importing it.

    For a step: the keyword-only parameters of ``def <name>``. For a class: the annotated fields of its body, or, where it
    defines ``__init__``, the keyword-only parameters of that.
    """
    tree = ast.parse(source(folder, name).read_text(encoding="utf-8"))
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


def fields_of(tree: ast.Module, name: str) -> dict[str, Option]:
    """The annotated fields of class ``name`` in a parsed source, as ``options`` reads them."""
    return next((_fields(node) for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), {})


@cache
def constant(folder: str, name: str, variable: str) -> Any:
    """A literal assigned at the top of a plugin's source (``STAGE``), or None; nothing is imported."""
    for node in ast.parse(source(folder, name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == variable:
            return ast.literal_eval(node.value)
    return None


def _parameters(node: ast.FunctionDef) -> dict[str, Option]:
    found = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        annotation = argument.annotation or ast.Name("Any")
        found[argument.arg] = Option(argument.arg, annotation, REQUIRED if default is None else _literal(default))
    return found


def _fields(node: ast.ClassDef) -> dict[str, Option]:
    found = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            if "ClassVar" in ast.unparse(item.annotation):
                continue
            default = REQUIRED if item.value is None else _literal(item.value)
            found[item.target.id] = Option(item.target.id, item.annotation, default)
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)  # a computed default: shown, never used
