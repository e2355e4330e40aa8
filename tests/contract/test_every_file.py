"""What holds for every plugin of every kind: a newcomer's file is tested before its author writes a test."""

import ast

import pytest

from edgemm.contracts import plugins

EVERY = [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_there_are_variants_of_each_kind(kind):
    assert plugins.names(kind)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_file_says_in_its_first_line_what_it_is(kind, name):
    first, _, rest = (ast.get_docstring(ast.parse(plugins.source(kind, name).read_text(encoding="utf-8"))) or "").partition("\n")
    assert first.endswith((".", ":", "?")), "`edgemm list` shows this line"
    assert not rest.strip() or rest.startswith("\n"), "the first line is a sentence of its own"


@pytest.mark.parametrize(("kind", "name"), [entry for entry in EVERY if entry[0] != "verbs"])
def test_options_are_annotated_with_types_that_a_recipe_can_be_checked_against(kind, name):
    for option in plugins.options(kind, name).values():
        assert ast.unparse(option.annotation) != "Any", f"{name}.{option.name} has no type"


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_nothing_but_definitions_happens_at_import(kind, name):
    tree = ast.parse(plugins.source(kind, name).read_text(encoding="utf-8"))
    calls = [node for node in tree.body if isinstance(node, (ast.Expr, ast.For, ast.While, ast.With)) and not _is_text(node)]
    assert not calls, f"line {calls[0].lineno} runs when the file is imported"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
