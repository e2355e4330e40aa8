"""What a docstring says of arguments and errors is what the function takes and raises."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import edgemm
from edgemm import errors

PACKAGE = Path(edgemm.__file__).parent
OURS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.EdgemmError)}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    """Every documented function of the package, and where it stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function) and ast.get_docstring(node):
                yield f"{path.relative_to(PACKAGE).as_posix()}: {node.name}", node


def section(function: Function, title: str) -> str:
    """The indented lines below ``title``."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", f"{ast.get_docstring(function)}\n", re.MULTILINE)
    return found.group(1) if found else ""


def raised_by(function: Function) -> set[str]:
    """Names of edgemm's errors that stand behind a ``raise`` of the function itself."""
    names, open_nodes = set(), list(function.body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, (Function, ast.Lambda, ast.ClassDef)):
            continue
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name))) if name in OURS:
                names.add(name)
        open_nodes += ast.iter_child_nodes(node)
    return names


def test_every_documented_argument_is_one():
    wrong = []
    for place, function in functions():
        known = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
        for names in re.findall(r"^    (\*{0,2}\w[\w, *]*):", section(function, "Args"), re.MULTILINE):
            wrong += [f"{place} has no argument '{name}'" for name in re.findall(r"\w+", names) if name not in known]
    assert not wrong, "\n".join(wrong)


def test_a_public_function_that_raises_one_of_our_errors_says_so():
    wrong = []
    for place, function in functions():
        if function.name.startswith("_") or "/_" in place.replace("/__init__", ""):
            continue
        said = str(ast.get_docstring(function))  # under Raises:, or as its first line: "Raises RunError where ..."
        missing = set() if "EdgemmError" in said or "As ``" in said else {name for name in raised_by(function) if name not in said}
        wrong += [f"{place} raises {name} and does not say so" for name in sorted(missing)]
    assert not wrong, "\n".join(wrong)
