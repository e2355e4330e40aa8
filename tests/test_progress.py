"""Progress on stderr: lines in a file, bars on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from edgemm import progress as module
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


def test_a_long_stage_says_now_and_then_where_it_is(monkeypatch):
    monkeypatch.setattr(module, "PLAIN_EVERY_S", 0.0)
    stream = io.StringIO()
    progress = Plain(stream)
    with progress.stage("quantize"):
        progress.update("calibrating", 0.25)
        progress.update("smoothing")
    assert stream.getvalue().splitlines()[1:3] == ["quantize: 25% calibrating", "quantize: smoothing"]


def test_a_terminal_gets_a_bar_with_seconds():
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stderr=child, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait() == 0
    os.close(parent)
    text = shown.decode()
    assert "━" in text
    assert re.search(r"export.*\d\.\d s", text)
    assert "quantize: reused [1]" in text


def test_bars_of_nested_stages_are_indented():
    stream = io.StringIO()
    with Live(stream) as progress, progress.stage("outer"), progress.stage("inner"):
        progress.update("half", 0.5)
    assert "  inner" in stream.getvalue()
