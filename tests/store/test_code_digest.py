"""What of a Python file counts."""

import json

import pytest

from edgemm.store import code_digest
from edgemm.store.code_digest import Reader, parse

SOURCE = b'''"""A file."""

import os


class Thing:
    """A thing."""

    size = 1
    """Its size."""

    def grow(self, by: int = 1) -> int:
        """Grow."""
        return self.size + by
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"A file.", b"One file, with a comma."),
        (b"A thing.", b"Something else."),
        (b"Its size.", b"How large it is."),
        (b'        """Grow."""\n', b""),
        (b"size = 1", b"size = 1  # metre"),
        (b"(self, by: int = 1)", b"(\n        self,\n        by: int = 1,\n    )"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(old, new):
    assert old in SOURCE
    assert parse(SOURCE.replace(old, new)).digest == parse(SOURCE).digest


@pytest.mark.parametrize(
    ("old", "new"), [(b"size = 1", b"size = 2"), (b"by: int = 1", b"by: int = 2"), (b"+ by", b"- by"), (b"import os", b"import re")]
)
def test_code_counts(old, new):
    assert parse(SOURCE.replace(old, new)).digest != parse(SOURCE).digest


def test_a_string_that_is_a_value_counts():
    assert parse(b"x = 'a'").digest != parse(b"x = 'b'").digest


def test_imports_are_found_wherever_they_stand_but_under_the_type_checker():
    code = parse(
        b"""
from typing import TYPE_CHECKING
import importlib
from a import b
if TYPE_CHECKING:
    import unseen
else:
    import seen
def f(name):
    import c.d
    importlib.import_module("e")
    importlib.import_module(f"g.h.{name}")
"""
    )
    assert set(code.imports) == {"typing", "typing.TYPE_CHECKING", "importlib", "a", "a.b", "seen", "c.d", "e"}
    assert code.packages_under == ("g.h",)


def test_calls_of_the_registry_are_found_with_what_they_name():
    code = parse(b"plugins.load(Target, 'openvino'); plugins.function('steps', name); plugins.find(Head, kind)(1)")
    assert set(code.calls) == {("load", "Target", "openvino"), ("function", "steps", None), ("find", "Head", None)}


def test_the_packages_that_a_file_lists_are_read():
    assert parse(b"PACKAGES = ('tensorrt', 'tensorrt-rtx')").packages == ("tensorrt", "tensorrt-rtx")


def test_what_was_read_is_remembered_by_the_content_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.py"
    path.write_bytes(SOURCE)
    first = Reader(tmp_path / "code")
    found = first.read(path)
    first.keep()
    with monkeypatch.context() as patch:
        patch.setattr(code_digest, "parse", lambda content: pytest.fail("it was parsed again"))
        assert Reader(tmp_path / "code").read(path) == found
    path.write_bytes(SOURCE.replace(b"size = 1", b"size = 2"))
    assert Reader(tmp_path / "code").read(path) != found


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", json.dumps({"format": 0, "files": {}}).encode()])
def test_a_damaged_memory_is_none(tmp_path, damage):
    path = tmp_path / "a.py"
    path.write_bytes(SOURCE)
    reader = Reader(tmp_path)
    found = reader.read(path)
    reader.keep()
    (memory,) = tmp_path.glob("*.json")
    memory.write_bytes(damage)
    assert Reader(tmp_path).read(path) == found
