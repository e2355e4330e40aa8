"""Progress on stderr: lines in a file, lines that update themselves on a terminal."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from edgemm.progress import Live, Plain, Progress

RUN = """
from edgemm.progress import on_stderr
with on_stderr() as progress:
    with progress.stage("export"):
        progress.update("tracing", 0.5)
    progress.note("quantize: reused [1]")
"""


def test_finished_stages_are_remembered_with_their_seconds():
    progress = Progress()
    with progress.stage("export"), progress.stage("trace"):
        progress.update("x", 0.5)
        progress.note("y")
    assert [stage.name for stage in progress.finished] == ["trace", "export"]
    assert all(stage.seconds >= 0 for stage in progress.finished)


def test_a_stage_that_raised_is_not_finished():
    stream = io.StringIO()
    progress = Plain(stream)
    with pytest.raises(ValueError, match="x"), progress.stage("export"):
        raise ValueError("x")
    assert progress.finished == []
    assert re.fullmatch(r"export \.\.\.\nexport: stopped after \d+\.\d s\n", stream.getvalue())


def test_a_file_gets_a_line_when_a_stage_begins_and_one_when_it_ends():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert re.fullmatch(r"export \.\.\.\nexport: done in \d+\.\d s\nquantize: reused \[1\]\n", done.stderr)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_long_stage_says_every_ten_seconds_where_it_is():
    stream, clock = io.StringIO(), Clock()
    progress = Plain(stream, clock=clock)
    with progress.stage("quantize"):
        for second in range(1, 26):
            clock.now = float(second)
            progress.update("calibrating", second / 25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "quantize ..."
    assert lines[1:-1] == ["quantize: 40% calibrating, 10 s", "quantize: 80% calibrating, 20 s"]
    assert lines[-1].startswith("quantize: done in ")


class Heard(io.StringIO):
    """A stream that tells when its second line came."""

    def __init__(self):
        super().__init__()
        self.came = threading.Event()

    def flush(self):
        if self.getvalue().count("\n") >= 2:
            self.came.set()


def test_a_stage_that_reports_nothing_is_told_of_every_ten_seconds_too():
    stream, clock = Heard(), Clock()
    with Plain(stream, clock=clock, look_s=0.01) as progress, progress.stage("compile"):
        clock.now = 9.9
        assert not stream.came.wait(0.05), "not yet"
        clock.now = 10.0
        assert stream.came.wait(10)
    assert stream.getvalue().splitlines()[1] == "compile: running, 10 s"


def test_a_line_of_another_kind_starts_the_ten_seconds_anew():
    stream, clock = io.StringIO(), Clock()
    progress = Plain(stream, clock=clock)
    with progress.stage("tune"):
        clock.now = 8.0
        progress.note("export: reused")
        clock.now = 12.0
        progress.update("2 streams")
    assert len(stream.getvalue().splitlines()) == 3


def on_a_terminal(code: str, rows: int = 24, columns: int = 80) -> list[str]:
    """What ``code`` leaves on a terminal of that size, line by line."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=child, stdout=subprocess.PIPE, env={**variables, "TERM": "xterm"}
    ) as process:
        os.close(child)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(parent, 4096):
                shown += piece
        assert process.wait() == 0
        assert process.stdout.read() == b""
    os.close(parent)
    return screen(shown.decode())


def screen(text: str) -> list[str]:
    """The lines that stand on a terminal after ``text``; of its commands those that move up, return and erase a line."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif up := re.fullmatch(r"\x1b\[(\d+)A", piece):
            row -= int(up[1])
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] not in "\x1b\r":
            lines[row] += piece if not lines[row] or "\r" not in piece else ""
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_gets_one_line_a_stage_with_bar_and_seconds():
    lines = on_a_terminal(RUN)
    assert len(lines) == 2
    assert re.match(r"export +━+ +\d\.\d s", lines[0])
    assert lines[1] == "quantize: reused [1]"


def test_a_line_updates_itself_and_stays_one_line():
    code = """
from edgemm.progress import on_stderr
with on_stderr() as progress, progress.stage("quantize"):
    for done in range(50):
        progress.update("a text that is much longer than what is left of the line on a terminal of eighty columns", done / 50)
        progress._bars.refresh()
"""
    assert len(on_a_terminal(code)) == 1


def test_more_stages_than_a_terminal_has_lines_all_stay():
    code = """
from edgemm.progress import on_stderr
with on_stderr() as progress, progress.stage("compress"):
    for number in range(12):
        with progress.stage(f"stage {number}"):
            progress.update("half", 0.5)
            progress._bars.refresh()
"""
    lines = on_a_terminal(code, rows=6)
    assert [line.split("━")[0].strip() for line in lines] == [*(f"stage {number}" for number in range(12)), "compress"]


def test_what_silences_an_import_does_not_silence_progress(tmp_path, monkeypatch):
    (tmp_path / "nncf.py").write_text("import builtins\nprint('swallowed')\nwith builtins.progress.stage('export'):\n    print('too')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    code = """
import builtins
from edgemm.contracts.libraries import quiet_imports
from edgemm.progress import on_stderr
with on_stderr() as builtins.progress, quiet_imports():
    import nncf
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert re.fullmatch(r"export \.\.\.\nexport: done in \d+\.\d s\n", done.stderr)
    assert [line.split("━")[0].strip() for line in on_a_terminal(code)] == ["export"]


def test_what_is_printed_meanwhile_goes_to_stdout_where_that_is_no_terminal():
    parent, child = pty.openpty()
    code = "from edgemm.progress import on_stderr\nwith on_stderr() as progress, progress.stage('train'):\n    print('mine')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=child, text=True, check=True)
    os.close(child)
    os.close(parent)
    assert done.stdout == "mine\n"


def test_bars_of_nested_stages_are_indented():
    stream = io.StringIO()
    with Live(stream) as progress, progress.stage("outer"), progress.stage("inner"):
        progress.update("half", 0.5)
    assert "  inner" in stream.getvalue()
