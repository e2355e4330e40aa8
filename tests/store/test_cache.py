"""Same key, same artifact; nothing is done twice."""

import os
import subprocess
import sys

import pytest

from edgemm.errors import CheckpointError
from edgemm.store import cache


def maker(calls: list[int]):
    def make(scratch):
        calls.append(1)
        (scratch / "main").write_text("made")
        return scratch / "main"

    return make


@pytest.mark.usefixtures("empty_cache")
def test_a_stage_with_the_same_key_is_made_once():
    calls: list[int] = []
    first = cache.stage("export", {"opset": 18}, maker(calls))
    again = cache.stage("export", {"opset": 18}, maker(calls))
    assert first.main == again.main
    assert len(calls) == 1


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("other", [{"opset": 17}, {"opset": 18, "more": 1}])
def test_another_input_is_another_artifact(other):
    calls: list[int] = []
    cache.stage("export", {"opset": 18}, maker(calls))
    cache.stage("export", other, maker(calls))
    assert len(calls) == 2


def test_the_key_holds_source_versions_and_where_asked_the_machine():
    facts = cache.key_facts({"a": 1}, packages=["numpy", "no-such-package"], on_this_machine=True)
    assert facts["edgemm"] == cache.source_digest()
    assert facts["versions"]["no-such-package"] == "absent"
    assert facts["machine"] == cache.machine()
    assert cache.key_facts({})["machine"] is None


@pytest.mark.usefixtures("empty_cache")
def test_a_stage_that_fails_leaves_nothing_and_is_made_again():
    def fail(scratch):
        (scratch / "half").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.stage("export", {}, fail)
    assert list((cache.root() / "export").iterdir()) == []
    assert cache.stage("export", {}, maker([])).main.read_text() == "made"


@pytest.mark.usefixtures("empty_cache")
@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]"])
def test_a_damaged_record_is_made_again(damage):
    calls: list[int] = []
    made = cache.stage("export", {}, maker(calls))
    (made.folder / "artifact.json").write_bytes(damage)
    assert cache.stage("export", {}, maker(calls)).main.read_text() == "made"
    assert len(calls) == 2


@pytest.mark.usefixtures("empty_cache")
def test_a_stage_whose_main_file_is_gone_is_made_again():
    calls: list[int] = []
    cache.stage("export", {}, maker(calls)).main.unlink()
    cache.stage("export", {}, maker(calls))
    assert len(calls) == 2


def test_a_killed_stage_is_not_in_the_cache_and_finishes_next_time(empty_cache):
    code = """
import os, signal
from edgemm.store import cache
def make(scratch):
    (scratch / "main").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
cache.stage("export", {}, make)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "EDGEMM_CACHE": str(empty_cache)}).returncode == -9
    made = cache.stage("export", {}, maker([]))
    assert made.main.read_text() == "made"
    assert [path.name for path in made.folder.parent.iterdir()] == [made.folder.name], "what the killed run left is gone"


def test_the_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEMM_CACHE", str(tmp_path))
    assert cache.root() == tmp_path
    monkeypatch.delenv("EDGEMM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root() == tmp_path / ".cache" / "edgemm"


@pytest.mark.usefixtures("empty_cache")
def test_a_files_facts_follow_its_content(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    first = cache.file_facts(path)
    assert cache.file_facts(path) == first
    path.write_bytes(b"22")
    assert cache.file_facts(path) != first


@pytest.mark.usefixtures("empty_cache")
def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read '.*weights'"):
        cache.file_facts(tmp_path / "weights")


def test_the_machine_has_its_cores_counted():
    assert cache.machine()["cores"] == len(os.sched_getaffinity(0))
