"""`edgemm cache`: looking, tidying, emptying."""

import json

import pytest

from edgemm.cli import main
from edgemm.errors import EdgemmError
from edgemm.store import cache as store
from edgemm.store import in_use
from edgemm.verbs.cache import cache


@pytest.fixture
def filled(empty_cache):
    """Two entries of one stage and one of another, used by nobody any more."""

    def make(scratch):
        (scratch / "model.onnx").write_bytes(bytes(5000))
        return scratch / "model.onnx"

    for name, number in (("export", 1), ("export", 2), ("tune", 1)):
        store.stage(name, {"number": number}, make)
    for path in (empty_cache / in_use.USERS).glob(".list.*"):
        path.unlink()
    return empty_cache


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["cache", *arguments])
    return ended.value.code, capsys.readouterr().out


def test_looking_tells_entries_size_last_use_and_limit_and_removes_nothing(filled, capsys):
    code, out = run(capsys)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["stage", "entries", "size", "last", "use"]
    assert lines[1].split()[:4] == ["export", "2", "10.0", "KiB"]
    assert lines[2].split()[0] == "tune"
    assert lines[-1].startswith(f"{filled}: ")
    assert lines[-1].endswith("of at most 20.0 GiB ($EDGEMM_CACHE_LIMIT)")
    assert {name: share.entries for name, share in cache().stages.items()} == {"export": 2, "tune": 1}


@pytest.mark.usefixtures("filled")
def test_tidying_goes_down_to_the_limit(monkeypatch, capsys):
    monkeypatch.setenv("EDGEMM_CACHE_LIMIT", "11KiB")
    code, out = run(capsys, "--tidy")
    assert code == 0
    assert "removed: 1 entries" in out
    assert cache().size_bytes <= 11 * 1024


@pytest.mark.usefixtures("filled")
def test_emptying_removes_everything(capsys):
    found = json.loads(run(capsys, "--empty", "--json")[1])
    assert found["stages"] == {}
    assert found["removed"]["entries"] == 3
    assert cache().size_bytes == 0


@pytest.mark.usefixtures("empty_cache")
def test_what_is_in_use_stays_and_that_is_told(capsys):
    made = store.stage("export", {}, lambda scratch: _written(scratch / "main"))
    assert "kept: 1 entries that running processes use" in run(capsys, "--empty")[1]
    assert made.main.exists()


def _written(path):
    path.write_text("made")
    return path


def test_there_may_be_none_yet(empty_cache, capsys):
    for arguments in ([], ["--tidy"], ["--empty"]):
        code, out = run(capsys, *arguments)
        assert code == 0
        assert f"{empty_cache}: 0 B of at most" in out


def test_both_at_once_is_a_mistake():
    with pytest.raises(EdgemmError, match=r"--tidy and --empty were both given.\n  fix: give one of them."):
        cache(tidy=True, empty=True)
