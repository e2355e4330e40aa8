"""The cache keeps within its limit, and takes nothing from under a running process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgemm.errors import EdgemmError
from edgemm.store import cache, in_use, tidying
from edgemm.store.tidying import Entry, Removed

USES = """
import sys
from edgemm.store import cache
def make(scratch):
    (scratch / "main").write_bytes(bytes(1000))
    return scratch / "main"
for number in sys.argv[1:]:
    cache.stage("export", {"number": number}, make)
"""
"""A process that makes (or finds) entries of 1000 bytes, then does what stands after it."""


def code_of(root: Path, numbers: tuple[int, ...], then: str) -> dict[str, Any]:
    return {"args": [sys.executable, "-c", USES + then, *map(str, numbers)], "env": {**os.environ, "EDGEMM_CACHE": str(root)}}


def in_another_process(root: Path, *numbers: int, then: str = "") -> int:
    """Its exit code."""
    return subprocess.run(**code_of(root, numbers, then), check=False).returncode


@contextmanager
def running(root: Path, *numbers: int, then: str) -> Iterator[None]:
    """``then`` says something when it is ready, and reads a line before it ends; it has ended, well, after the block."""
    with subprocess.Popen(**code_of(root, numbers, then), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate("\n")
    assert process.returncode == 0


@pytest.fixture
def filled(empty_cache):
    """Entries 0 to 4 of about 1000 bytes each, made by a process that has ended; 0 was used longest ago."""
    assert in_another_process(empty_cache, *range(5)) == 0
    for entry in (empty_cache / "export").iterdir():
        number = int(number_of(Entry("export", entry, 0, 0)))
        os.utime(entry, (1_000_000 + number, 1_000_000 + number))
    return empty_cache


def number_of(entry: Entry) -> str:
    found = cache.lookup(entry.path)
    assert found is not None
    return str(found.provenance["inputs"]["number"])


def numbers(root: Path) -> list[str]:
    return [number_of(entry) for entry in tidying.entries(root) if entry.stage == "export"]


def size(root: Path) -> int:
    return max(entry.size_bytes for entry in tidying.entries(root) if entry.stage == "export")


def test_what_was_used_longest_ago_goes_first(filled):
    assert numbers(filled) == ["0", "1", "2", "3", "4"]
    total = sum(entry.size_bytes for entry in tidying.entries(filled))
    removed = tidying.tidy(filled, total - size(filled) - 1)
    assert numbers(filled) == ["2", "3", "4"]
    assert (removed.entries, removed.in_use) == (2, 0)
    assert removed.size_bytes > 2000


def test_a_cache_within_its_limit_keeps_everything(filled):
    assert tidying.tidy(filled, 10**6) == Removed()
    assert len(numbers(filled)) == 5


def test_finding_a_stage_counts_as_using_it(filled):
    assert in_another_process(filled, 0) == 0
    assert numbers(filled) == ["1", "2", "3", "4", "0"]


def test_what_a_running_process_uses_stays(filled):
    with running(filled, 0, then="print(flush=True); input()"):
        for entry in tidying.entries(filled):
            os.utime(entry.path, (1_000_000, 1_000_000))
        assert tidying.empty(filled).in_use == 1
        assert numbers(filled) == ["0"]
    assert tidying.empty(filled).in_use == 0
    assert numbers(filled) == []


def test_what_a_killed_process_used_may_go(filled):
    assert in_another_process(filled, 0, then="import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == -9
    assert tidying.empty(filled).in_use == 0
    assert not list((filled / in_use.USERS).glob(".list.*"))


def test_what_this_process_uses_stays_also_when_the_cache_was_emptied_by_hand_before(empty_cache):
    import shutil

    in_use.mark(empty_cache, empty_cache / "export" / "a")
    shutil.rmtree(empty_cache)
    made = cache.stage("export", {"number": 1}, lambda scratch: _written(scratch / "main"))
    tidying.empty(empty_cache)
    assert made.main.exists()


def _written(path: Path) -> Path:
    path.write_text("made")
    return path


def test_a_stage_that_was_just_made_stays_whatever_the_limit(empty_cache, monkeypatch):
    monkeypatch.setenv("EDGEMM_CACHE_LIMIT", "0")
    assert cache.stage("export", {}, lambda scratch: _written(scratch / "main")).main.read_text() == "made"


def test_making_a_stage_keeps_the_cache_within_its_limit(filled, monkeypatch):
    monkeypatch.setenv("EDGEMM_CACHE_LIMIT", f"{3 * size(filled) + 100} B")
    assert in_another_process(filled, 5, 6) == 0
    assert numbers(filled)[-2:] == ["5", "6"]
    assert len(numbers(filled)) == 3


def test_leftovers_of_killed_runs_go_and_those_of_running_ones_stay(filled):
    code = "import os, signal; cache.stage('export', {}, lambda scratch: os.kill(os.getpid(), signal.SIGKILL))"
    assert in_another_process(filled, then=code) == -9
    with running(filled, then="cache.stage('export', {'a': 1}, lambda scratch: (print(flush=True), input(), make(scratch))[2])"):
        assert len(list((filled / "export").glob(".*"))) == 4, "two folders and their locks"
        assert tidying.tidy(filled, 10**6).leftovers == 1
        assert len(list((filled / "export").glob(".*"))) == 2
    assert not list((filled / "export").glob(".*"))


def test_a_file_written_aside_is_a_leftover_after_a_day(filled):
    aside = filled / "export" / ".model.onnx.abcd1234"
    aside.write_text("")
    assert tidying.tidy(filled, 10**6).leftovers == 0
    os.utime(aside, (1_000_000, 1_000_000))
    assert tidying.tidy(filled, 10**6).leftovers == 1


def test_what_edgemm_did_not_put_there_stays(filled):
    mine = filled / "notes" / "todo.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    tidying.empty(filled)
    assert mine.read_text() == "mine"


def test_small_things_are_removed_by_emptying_alone(filled):
    tuned = filled / "tuned" / "a.json"
    tuned.parent.mkdir()
    tuned.write_text("{}")
    tidying.tidy(filled, 0)
    assert tuned.exists()
    tidying.empty(filled)
    assert not tuned.exists()


def test_there_may_be_no_cache_yet(empty_cache):
    assert tidying.entries(empty_cache) == []
    assert tidying.tidy(empty_cache, 0) == tidying.empty(empty_cache) == Removed()
    assert not empty_cache.exists()


def test_processes_that_make_and_tidy_at_once_do_each_other_no_harm(empty_cache):
    work = """
import random
from edgemm.store import tidying
for _ in range(100):
    number = random.randrange(50)
    made = cache.stage("export", {"number": number}, make)
    assert made.main.read_bytes() == bytes(1000)
    if random.random() < 0.3:
        tidying.tidy(cache.root(), 5000)
    assert made.main.read_bytes() == bytes(1000)
"""
    processes = [subprocess.Popen(**code_of(empty_cache, (), work)) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    tidying.tidy(empty_cache, 5000)
    assert 0 < sum(entry.size_bytes for entry in tidying.entries(empty_cache) if entry.stage == "export") <= 5000
    assert not list((empty_cache / "export").glob(".*"))
    assert not list((empty_cache / in_use.MAKING).iterdir())
    assert not list((empty_cache / tidying.TRASH).iterdir())


@pytest.mark.parametrize(
    ("words", "size"),
    [("5GiB", 5 * 2**30), ("500 MiB", 500 * 2**20), ("1.5g", 3 * 2**29), ("2GB", 2 * 10**9), ("0", 0), ("", 20 * 2**30), ("100B", 100)],
)
def test_the_limit_is_read_from_the_environment(monkeypatch, words, size):
    monkeypatch.setenv("EDGEMM_CACHE_LIMIT", words)
    assert tidying.limit() == size


@pytest.mark.parametrize("words", ["much", "-1GiB", "5 parsecs", "GiB"])
def test_a_limit_that_is_no_size_is_told_before_any_work(monkeypatch, empty_cache, words):
    monkeypatch.setenv("EDGEMM_CACHE_LIMIT", words)
    with pytest.raises(
        EdgemmError, match=rf"EDGEMM_CACHE_LIMIT is '{words}', which is no size.\n  fix: write a number and a unit, such as 5GiB"
    ):
        cache.stage("export", {}, lambda scratch: pytest.fail("it worked"))
    assert not empty_cache.exists()


def test_an_entry_that_was_used_since_it_was_looked_at_stays(filled):
    known = tidying.entries(filled)
    os.utime(known[0].path, (time.time(), time.time()))
    removed = tidying._remove(filled, known, lambda entry: True)
    assert numbers(filled) == ["0"]
    assert removed.in_use == 1
