"""Who may import whom, read from the source: every import counts, also in a function and for the type checker alone.

cli -> verbs -> pipeline -> workshop | box -> graph -> data | report -> contracts -> store -> errors, progress,
redaction.

What breaks a rule today and is known stands in a list here. A list that names too much fails as one that names too little, so that
whoever mends a fault takes it off.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import edgemm
from edgemm.contracts import plugins

PACKAGE = Path(edgemm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = ("errors progress redaction", "store", "contracts", "data report", "graph", "workshop box", "pipeline", "verbs", "cli", "__main__")
"""Rooms from the ground up; those of one floor know nothing of each other, but for those on the ground."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
ENTRANCES = ("edgemm", "edgemm.__main__", "edgemm.cli")

ONLY_IN = {
    ("workshop",): {"torch", "torchao", "nncf", "transformers", "accelerate", "safetensors", "torchmetrics"},
    ("workshop", "graph"): {"onnx", "onnxscript", "onnx_ir"},
}
"""Rooms -> the packages that nobody else imports."""

CLIMBS: set[tuple[str, str]] = set()
ROOMS_IN_A_CIRCLE: list[set[str]] = []
PLUGINS_REACHED: set[tuple[str, str]] = set()
"""A file, and the plugin that it imports without asking the registry."""
FOREIGN_PARTS: set[tuple[str, str]] = set()
"""Underscore files that are imported from outside of their package."""
LAZY_EVERYWHERE = ("cli.py", "__main__.py", "__init__.py", "verbs/", "pipeline/", "contracts/plugins.py")
"""The command line must start at once, a cached stage imports what it needs where nothing was found, the registry imports plugins."""
LAZY = {
    "box/bundle/seal.py": "cryptography: only signed bundles need it",
    "box/devices/_peaks_worker.py": "openvino: without it the other peaks are measured all the same",
    "box/measuring/probes/memory.py": "resource: not on every system",
    "box/measuring/roofline.py": "graph: a box has no onnx",
    "box/measuring/worker.py": "numpy-only processes that time nothing but latency",
    "box/serving/drift.py": "cryptography: only encrypted samples need it",
    "box/targets/_tensorrt/forms.py": "graph: a box has no onnx, and takes the form that the bundle brings",
    "box/targets/tensorrt.py": "graph: as above",
    "data/modalities/audio.py": "soundfile: a box hears, it reads no files",
    "data/modalities/image.py": "pillow: a box's source fits its pictures itself",
    "data/modalities/text.py": "tokenizers: token ids need none",
    "data/manifests.py": "pyarrow: only parquet needs it",
    "data/tasks/segmentation.py": "pillow: a box reads no masks",
    "progress.py": "rich: only where somebody watches",
    "workshop/models/checkpoint/loading.py": "transformers takes seconds; a user's own factory needs no reference models",
    "workshop/steps/prune.py": "accelerate: only recovery trains",
    "workshop/training/trackers/mlflow.py": "mlflow: only its records need it",
    "workshop/training/trackers/tensorboard.py": "tensorboard or tensorboardX: as above",
    "workshop/training/trackers/wandb.py": "wandb: as above",
    "workshop/models/exportable.py": "itself: bodies that run with the globals of torch's file",
}
"""File outside of those -> why it imports in functions."""


def name_of(path: Path) -> str:
    return ".".join(("edgemm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path, *, within_functions: bool | None = None) -> Iterator[str]:
    """Full names of what a file imports.

    Args:
        within_functions: Only imports in functions, or only others; None = all.
    """

    def walk(node: ast.AST, inside: bool) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)) and within_functions not in (None, inside):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield full if full in MODULES else str(child.module)
            else:
                yield from walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


GRAPH = {name: {found for found in imports(path) if found in MODULES and found not in (name, "edgemm")} for name, path in MODULES.items()}
"""File -> the files of edgemm that it imports; ``edgemm`` itself only tells its version."""
PAIRS = [(name, other) for name, others in sorted(GRAPH.items()) for other in sorted(others)]


def top(module: str) -> str:
    """The room under ``edgemm/`` that a file is in."""
    return module.split(".")[1]


def room(module: str) -> str:
    """The folder a file is in; a folder that begins with an underscore is part of the one above it."""
    parts = MODULES[module].relative_to(PACKAGE).parts[:-1]
    return "/".join(part for part in parts if not part.startswith("_")) or module


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in graph.get(waiting.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        reached[start] = seen
    found: list[set[str]] = []
    for node in graph:
        knot = {other for other in reached[node] if node in reached.get(other, ())}
        if len(knot) > 1 and knot not in found:
            found.append(knot)
    return found


def plugin_kind(module: str) -> str | None:
    """The kind of variant a file is a plugin of, or None."""
    path = MODULES[module]
    for kind, folders in plugins.KINDS.items():
        if path.parent.relative_to(PACKAGE).as_posix() in folders and not path.name.startswith("_"):
            return kind
    return None


def test_every_file_lies_in_a_room_of_the_house():
    assert {top(name) for name in MODULES if name != "edgemm"} == FLOOR_OF.keys()


def test_imports_go_down_the_house_only():
    found = {
        (name, other)
        for name, other in PAIRS
        if name != "edgemm" and top(name) != top(other) and FLOOR_OF[top(name)] <= FLOOR_OF[top(other)] and FLOOR_OF[top(other)] > 0
    }
    assert found == CLIMBS


def test_no_file_imports_itself_by_way_of_others():
    assert circles(GRAPH) == []


def test_no_two_rooms_import_each_other():
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, other in PAIRS:
        if name not in ENTRANCES and room(name) != room(other):
            rooms[room(name)].add(room(other))
    assert circles(rooms) == ROOMS_IN_A_CIRCLE


@pytest.mark.parametrize("rooms", ONLY_IN, ids=" or ".join)
def test_what_the_box_does_not_have_is_imported_only_where_it_is_never_needed(rooms):
    packages = ONLY_IN[rooms]
    found = {name for name, path in MODULES.items() for other in imports(path) if other.partition(".")[0] in packages}
    assert not {name for name in found if top(name) not in rooms}


@pytest.mark.parametrize("floor", ["contracts", "store"])
def test_the_ground_needs_numpy_and_yaml_alone(floor):
    allowed = {"numpy", "yaml", "edgemm", *sys.stdlib_module_names}
    for name, path in MODULES.items():
        if name.startswith(f"edgemm.{floor}"):
            assert not {other.partition(".")[0] for other in imports(path)} - allowed, name


def test_no_package_imports_an_underscore_file_of_another():
    def is_foreign(name: str, other: str) -> bool:
        parts = other.split(".")
        packages = [".".join(parts[:place]) for place, part in enumerate(parts) if part.startswith("_") and part != "__main__"]
        return any(not name.startswith(f"{package}.") for package in packages)

    assert {pair for pair in PAIRS if is_foreign(*pair)} == FOREIGN_PARTS


def test_nobody_but_the_registry_reaches_a_plugin():
    reached = {(name, other) for name, other in PAIRS if plugin_kind(other) not in (None, "verbs")}
    assert {(name, other.rpartition(".")[2]) for name, other in reached} == PLUGINS_REACHED


def test_only_the_command_line_imports_commands():
    allowed = {*ENTRANCES, *(name for name, _ in CLIMBS)}
    assert not [(name, other) for name, other in PAIRS if plugin_kind(other) == "verbs" and name not in allowed]


@pytest.mark.parametrize("folder", [folder for kind, folders in plugins.KINDS.items() if kind != "verbs" for folder in folders])
def test_a_folder_of_plugins_holds_plugins_and_folders_with_an_underscore(folder):
    files = [path.name for path in (PACKAGE / folder).glob("*.py") if path.name.startswith("_") and path.name != "__init__.py"]
    folders = [path.name for path in (PACKAGE / folder).iterdir() if path.is_dir() and not path.name.startswith("_")]
    assert not [*files, *folders]


def test_an_import_inside_a_function_has_a_reason():
    places = {path.relative_to(PACKAGE).as_posix(): path for path in FILES}
    lazy = {place for place, path in places.items() if any(imports(path, within_functions=True))}
    assert {place for place in lazy if not place.startswith(LAZY_EVERYWHERE) and Path(place).name not in LAZY_EVERYWHERE} == LAZY.keys()


def test_nobody_but_the_registry_imports_our_files_by_their_names():
    def names(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
                yield ast.unparse(node.args[0])

    found = {name for name, path in MODULES.items() for text in names(path) if "edgemm." in text}
    assert found - {"edgemm.contracts.plugins"} == {"edgemm", "edgemm.box.remote.__main__"}


def test_the_command_line_imports_nothing_heavy_at_the_top():
    found = imports(PACKAGE / "cli.py", within_functions=False)
    foreign = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"typer", "edgemm.contracts.options", "edgemm.contracts.plugins", "edgemm.contracts.signatures"}


def test_no_folder_or_file_under_edgemm_bears_a_commands_name():
    assert not {path.stem for path in PACKAGE.glob("*")} & set(edgemm.__all__)


def test_no_file_is_called_utils():
    assert not [path for path in FILES if path.stem.strip("_") in ("utils", "helpers", "misc", "common", "manager", "base")]
