"""The direction of imports, read from the source: cli -> verbs -> libraries and variants -> ground floor."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgemm

PACKAGE = Path(edgemm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
GROUND = ("errors", "specs", "plugins", "options", "card", "recipe", "artifact", "cache", "report")
VARIANTS = (
    "steps",
    "targets",
    "probes",
    "modalities",
    "models.encoders",
    "models.fusions",
    "models.heads",
    "runtime.sources",
    "runtime.sinks",
)
WORKSHOP = {"torch", "torchao", "nncf", "transformers", "accelerate", "safetensors", "torchmetrics"}
ONNX = {"onnx", "onnxscript", "onnx_ir"}
TORCH_FILES = ("steps/", "models/", "pruning/", "training.py", "checkpoint.py", "exporting.py", "targets/torch.py")
ONNX_FILES = (*TORCH_FILES, "graph/")
GROUND_PACKAGES = {"numpy", "yaml", "edgemm"}


def name_of(path: Path) -> str:
    return ".".join(("edgemm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports; what only the type checker sees is left out."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield full if full in MODULES else str(child.module)
            else:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


def variant(module: str) -> str | None:
    """The folder of variants ``module`` is a plugin of, or None."""
    folder, _, name = module.removeprefix("edgemm.").rpartition(".")
    return folder if folder in VARIANTS and not name.startswith("_") else None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_place_allows(path):
    place, module = path.relative_to(PACKAGE).as_posix(), name_of(path)
    found = set(imports(path))
    packages = {name.partition(".")[0] for name in found}
    if not place.startswith(TORCH_FILES):
        assert not packages & WORKSHOP, "torch and its kin stay in the workshop"
    if not place.startswith(ONNX_FILES):
        assert not packages & ONNX, "onnx stays at the border"
    if place.removesuffix(".py") in GROUND:
        foreign = {name for name in found if name.startswith("edgemm") and name.removeprefix("edgemm.") not in (*GROUND, "edgemm")}
        assert not foreign, "the ground floor imports nothing upward"
    if not place.startswith(("verbs/", "_runner/", "cli.py", "__main__.py", "__init__.py")):
        assert not {name for name in found if name.startswith(("edgemm.verbs", "edgemm.cli"))}, "only the command line imports verbs"
    if variant(module):
        assert not {name for name in found if variant(name) and name != module}, "variants do not import each other"
    if place.startswith("verbs/") and not path.name.startswith("_"):
        others = {name for name in found if name.startswith("edgemm.verbs.") and not name.rpartition(".")[2].startswith("_")}
        assert not others, "verbs do not import each other"


def test_the_command_line_imports_nothing_heavy_at_the_top():
    foreign = {name for name in imports(PACKAGE / "cli.py", top_only=True) if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"typer", "edgemm.contracts.options", "edgemm.contracts.plugins", "edgemm.contracts.signatures"}


def test_the_ground_floor_needs_only_numpy_and_yaml():
    for name in GROUND:
        foreign = {found.partition(".")[0] for found in imports(PACKAGE / f"{name}.py")} - GROUND_PACKAGES - set(sys.stdlib_module_names)
        assert not foreign, f"{name}.py imports {foreign}"


def test_there_is_no_circle_of_imports():
    graph = {
        name: {found for found in imports(path, top_only=True) if found in MODULES and found != name} for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_directly_under_edgemm_bears_a_commands_name():
    assert not {path.stem for path in PACKAGE.glob("*")} & set(edgemm.__all__)


def test_no_file_is_called_utils():
    assert not [path for path in FILES if path.stem.strip("_") in ("utils", "helpers", "misc", "common", "manager", "base")]
