"""Files appear whole or not at all."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

from edgemm.errors import OutputError
from edgemm.store import artifact, owned
from edgemm.store.artifact import Artifact, folder_in_one_step, require_writable, show_size, write_bytes, write_json


def test_a_folder_appears_under_its_name_only_when_complete(tmp_path):
    final = tmp_path / "out"
    with folder_in_one_step(final) as scratch:
        (scratch / "a").write_text("1")
        assert not final.exists()
    assert (final / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_remains_of_a_folder_whose_maker_raised(tmp_path):
    with pytest.raises(ValueError, match="x"), folder_in_one_step(tmp_path / "out"):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_an_older_folder_stays_until_the_new_one_is_complete(tmp_path):
    final = tmp_path / "out"
    final.mkdir()
    (final / "old").write_text("1")
    with pytest.raises(ValueError, match="x"), folder_in_one_step(final):
        raise ValueError("x")
    assert (final / "old").read_text() == "1"
    with folder_in_one_step(final) as scratch:
        (scratch / "new").write_text("2")
    assert [path.name for path in final.iterdir()] == ["new"]


def test_a_killed_writer_leaves_no_folder_and_the_next_one_cleans_up(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from edgemm.store.artifact import folder_in_one_step
with folder_in_one_step(Path({str(tmp_path / "out")!r})) as scratch:
    (scratch / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 2, "the half-written folder is there under a hidden name, and its lock"
    with folder_in_one_step(tmp_path / "out") as scratch:
        (scratch / "whole").write_text("y")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_brings_the_old_folder_back(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("1")
    code = f"""
import os, signal
from pathlib import Path
from edgemm.store.artifact import folder_in_one_step
rename, renames = os.rename, []
def dies(old, new):
    renames.append(new)
    os.kill(os.getpid(), signal.SIGKILL) if len(renames) == 3 else rename(old, new)
os.rename = dies
with folder_in_one_step(Path({str(tmp_path / "out")!r})) as scratch:
    (scratch / "new").write_text("2")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="x"), folder_in_one_step(tmp_path / "out"):
        raise ValueError("x")
    assert (tmp_path / "out" / "kept").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


SLOW_WRITER = """
import sys
from pathlib import Path
from edgemm.store.artifact import file_in_one_step, folder_in_one_step
final = Path(sys.argv[2])
if sys.argv[1] == "folder":
    with folder_in_one_step(final) as scratch:
        (scratch / "a").write_text("1")
        print(flush=True); input()
        (scratch / "b").write_text((scratch / "a").read_text())
else:
    with file_in_one_step(final) as file:
        print(flush=True); input()
        file.write(b"1")
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_process_of_another_container_writes_is_no_leftover(tmp_path, kind):
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody make a process namespace")
    command = [*apart, sys.executable, "-c", SLOW_WRITER, kind, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        writer.stdout.readline()
        artifact.remove_leftovers(tmp_path / "out")
        writer.communicate("\n")
    assert writer.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("seen", ["another host", "no locks"])
def test_what_may_be_written_unseen_stays_for_a_week(tmp_path, monkeypatch, seen):
    """As on a network file system that keeps locks within each host, or has none."""
    with folder_in_one_step(tmp_path / "out") as scratch:
        if seen == "another host":
            monkeypatch.setattr(owned, "host", lambda: "0123abcd")
        monkeypatch.setattr(owned.fcntl, "flock", no_locks if seen == "no locks" else lambda *_: None)
        artifact.remove_leftovers(tmp_path / "out")
        assert scratch.is_dir()
        os.utime(scratch.with_name(f"{scratch.name}.lock"), (1_000_000, 1_000_000))
        artifact.remove_leftovers(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
        scratch.mkdir()


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_of_two_that_write_one_folder_at_once_the_later_stands_and_none_fails(tmp_path):
    code = f"""
from pathlib import Path
from edgemm.store.artifact import folder_in_one_step
for number in range(60):
    with folder_in_one_step(Path({str(tmp_path / "out")!r})) as scratch:
        (scratch / "main").write_text(str(number))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "main").read_text() == "59"


def test_a_full_disk_is_an_error_with_a_fix(tmp_path):
    with (
        pytest.raises(OutputError, match=r"cannot write .*out\.(.|\n)*No space left(.|\n)*free some space"),
        folder_in_one_step(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_device_is_an_error_with_a_fix():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert artifact.is_unwritable(caught.value)


def test_another_os_error_passes_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), folder_in_one_step(tmp_path / "out"):
        (tmp_path / "missing").read_text()


def test_a_place_below_a_file_is_refused_before_the_work_starts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*(.|\n)*choose another place with -o"):
        require_writable(tmp_path / "file" / "out")


def test_write_bytes_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"1")
    write_bytes(path, b"2")
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]


def test_write_bytes_says_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "file" / "x", b"1")


def test_write_json_writes_the_same_bytes_for_the_same_value(tmp_path):
    write_json(tmp_path / "a", {"b": [1, 2], "ä": None})
    write_json(tmp_path / "b", {"b": [1, 2], "ä": None})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text("utf-8")) == {"b": [1, 2], "ä": None}


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert artifact.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(bytes(3 * artifact.PIECE + 1))
    assert artifact.sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest(), "one larger than a piece"


def test_an_artifacts_size_counts_its_siblings_and_not_its_record(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"12345")
    (tmp_path / "model.data").write_bytes(b"123")
    (tmp_path / artifact.RECORD).write_bytes(b"{}")
    made = Artifact(tmp_path / "model.onnx")
    assert made.size_bytes == 8
    assert made.sibling("model.data").is_file()


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
)
def test_sizes_are_shown_as_people_write_them(size, words):
    assert show_size(size) == words
