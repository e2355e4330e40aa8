"""What pages, docstrings and scripts refer to is there: files, headings, modules, names, commands."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.borders import test_import_rules as rules

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgemm"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = re.compile(r"(?<![\w./-])edgemm(?:\.[A-Za-z_]\w*)+(?![\w/-])")
FILE_ENDINGS = ("edgemm.yaml", "edgemm.json")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}; the headings are {sorted(anchors(target))}"


def resolve(name: str) -> Any:
    """The module or attribute of that dotted name.

    Raises:
        AttributeError: There is none.
    """
    words = name.split(".")
    for length in range(len(words), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError as err:
            if err.name is None or not err.name.startswith("edgemm"):
                raise
            continue
        for word in words[length:]:
            thing = getattr(thing, "__annotations__", {}).get(word) or getattr(thing, word)
        return thing
    raise AttributeError(name)


def docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                yield path.relative_to(ROOT).as_posix(), text


def names_in(text: str) -> set[str]:
    return {name for name in NAME.findall(text) if name not in FILE_ENDINGS}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_edgemm_name_on_a_page_is_a_module_or_in_one(page):
    for name in names_in(page.read_text(encoding="utf-8")):
        try:
            resolve(name)
        except AttributeError:
            pytest.fail(f"{page.name} names {name}, which does not exist")


def test_every_edgemm_name_in_a_docstring_is_a_module_or_in_one():
    wrong = set()
    for place, text in docstrings():
        for name in names_in(text):
            try:
                resolve(name)
            except AttributeError:
                wrong.add(f"{place} names {name}")
    assert not wrong


def test_a_name_that_does_not_exist_would_be_noticed():
    with pytest.raises(AttributeError):
        resolve("edgemm.contracts.card.Kard")
    with pytest.raises(AttributeError):
        resolve("edgemm.porch")


def test_the_architecture_tells_who_imports_whom_as_it_is():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## Who imports whom")[2].partition("\n## ")[0]
    told = {room: set(re.findall(r"`(\w+)`", rooms)) for room, rooms in re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)}
    wrong = {
        (name, other)
        for name, other in rules.PAIRS
        if name not in ("edgemm", "edgemm.__main__")
        and rules.top(name) != rules.top(other)
        and rules.top(other) not in told.get(rules.top(name), ())
    }
    assert wrong <= rules.CLIMBS
    order = [*told, "progress", "redaction"]
    for room, rooms in told.items():
        assert rooms <= set(order[order.index(room) + 1 :]), f"{room} would import upward"


def test_the_architecture_names_every_folder_of_the_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")}):
        assert f"`edgemm/{folder}`" in text, f"the architecture does not say what edgemm/{folder} is"


def test_what_runs_before_a_commit_is_what_make_check_and_ci_run():
    plain = yaml.safe_load((ROOT / ".ci" / "pre-commit.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repo in plain["repos"] for hook in repo["hooks"]]
    recipe = re.search(r"^check: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE).group(1)
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert len(hooks) == 3
    assert "make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_make_docs_writes_a_page_for_every_public_module_and_no_broken_link(tmp_path):
    made = subprocess.run(
        ["make", "-o", "setup", "docs", f"BIN={Path(sys.executable).parent}", f"DOCS={tmp_path / 'docs'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "Error importing" not in made.stderr
    pages = {page.relative_to(tmp_path / "docs").with_suffix("").as_posix() for page in (tmp_path / "docs").rglob("*.html")}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("")
        inner = [part for part in module.parts if part.startswith("_") and part != "__init__"]
        if not inner and len(module.parts) > 2:
            assert (module.parent if path.name == "__init__.py" else module).as_posix() in pages
    for page in (tmp_path / "docs").rglob("*.html"):
        for link in re.findall(r'href="([^"#:]+\.html)(?:#[^"]*)?"', page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
