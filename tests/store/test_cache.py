"""Same key, same artifact; nothing is done twice."""

import os
import subprocess
import sys
import time

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


def test_the_key_holds_code_versions_and_where_asked_the_machine():
    facts = cache.key_facts({"a": 1}, code="of the stage", packages=["numpy", "no-such-package"], on_this_machine=True)
    assert facts["code"] == "of the stage"
    assert facts["versions"]["no-such-package"] == "absent"
    assert cache.key_facts({})["machine"] is None


def test_the_cores_that_may_be_used_are_in_the_key_of_what_is_timed_alone():
    facts = cache.key_facts({}, on_this_machine=True)["machine"]
    assert facts == {key: value for key, value in cache.machine().items() if key != "cores"}
    assert cache.key_facts({}, timed=True)["machine"] == cache.machine()


def test_graphics_processors_are_in_the_key_of_what_runs_on_them_alone():
    facts = cache.key_facts({}, timed=True, accelerated=True)["machine"]
    assert facts == {**cache.machine(), "accelerators": cache.accelerators()}
    assert cache.key_facts({}, accelerated=True)["machine"] is None
    assert cache.accelerators().keys() == {"devices", "board", "driver", "visible"}


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


TWO_AT_ONCE = """
import sys, time
from pathlib import Path
from edgemm.store import cache
def make(scratch):
    with open(sys.argv[1], "a") as calls:
        calls.write("made\\n")
    for number in range(20):
        with (scratch / "main").open("a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.02)
    return scratch / "main"
said = []
artifact = cache.stage("export", {}, make, waiting=said.append)
print(artifact.main.read_text().split() == [str(number) for number in range(20)], len(said))
"""


def test_two_processes_that_run_one_stage_at_once_make_it_once(empty_cache, tmp_path):
    calls = tmp_path / "calls"
    environment = {**os.environ, "EDGEMM_CACHE": str(empty_cache)}
    started = [
        subprocess.Popen([sys.executable, "-c", TWO_AT_ONCE, calls], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = sorted(process.communicate()[0].split() for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert said == [["True", "0"], ["True", "1"]], "both read it whole, and one was told that it waits"
    assert calls.read_text() == "made\n"
    (entry,) = (empty_cache / "export").iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["artifact.json", "main"]
    assert list((empty_cache / ".making").iterdir()) == []


MANY_KEYS = """
import errno, fcntl, os, sys
from edgemm.store import cache
def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")
if sys.argv[1] == "no locks":
    fcntl.flock = no_locks
os.fsync = lambda handle: None  # nobody pulls the plug
made = 0
for number in range(int(sys.argv[2])):
    def make(scratch):
        global made
        made += 1
        for name in ("main", "sibling"):
            (scratch / name).write_text(str(os.getpid()))
        return scratch / "main"
    artifact = cache.stage("export", {"number": number}, make)
    assert artifact.main.read_text() == artifact.sibling("sibling").read_text(), number
print(made)
"""


@pytest.mark.parametrize(("locks", "keys"), [("locks", 300), ("no locks", 100)])
def test_four_processes_that_want_the_same_keys_at_once_never_fail_nor_mix(empty_cache, locks, keys):
    environment = {**os.environ, "EDGEMM_CACHE": str(empty_cache)}
    command = [sys.executable, "-c", MANY_KEYS, locks, str(keys)]
    workers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    made = [int(worker.communicate()[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sum(made) == keys or locks == "no locks"
    entries = list((empty_cache / "export").iterdir())
    assert len(entries) == keys, "and nothing is left over"
    assert all((entry / "main").read_text() == (entry / "sibling").read_text() for entry in entries)


def test_a_process_goes_on_with_a_stage_whose_maker_is_killed(empty_cache, tmp_path):
    began = tmp_path / "began"
    environment = {**os.environ, "EDGEMM_CACHE": str(empty_cache)}
    code = """
import sys, time
from pathlib import Path
from edgemm.store import cache
def make(scratch):
    Path(sys.argv[1]).write_text("")
    time.sleep(600)
cache.stage("export", {}, make)
"""
    process = subprocess.Popen([sys.executable, "-c", code, began], env=environment)
    while not began.exists():
        time.sleep(0.01)

    def kill(sentence: str) -> None:
        assert str(process.pid) in sentence
        process.kill()
        process.wait()

    assert cache.stage("export", {}, maker([]), waiting=kill).main.read_text() == "made"


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
