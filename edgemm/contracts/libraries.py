"""Libraries write for their developers while they are imported and called: what a missing part of theirs means, what will be deprecated.

None of it is for the user of a command. It is silenced where it arises and nowhere else, so that a user's own warnings, log lines and
prints stay. With ``EDGEMM_DEBUG`` set (``edgemm --debug`` sets it, and worker processes inherit it) nothing is.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, cast

DEBUG = "EDGEMM_DEBUG"
NAMES = (
    "torch", "torchao", "torchmetrics", "accelerate", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "nncf", "openvino",
    "tensorrt", "tensorrt_rtx",
)  # fmt: skip
WARNING = (*NAMES, "edgemm", "contextlib", "copyreg", "importlib")  # of the standard library those that a library is called through
"""Packages whose warnings tell a user nothing that he could act on."""
INSTALLED = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib")})
STANDARD = os.path.realpath(sysconfig.get_path("stdlib"))
ONNXRUNTIME_FATAL, ONNXRUNTIME_WARNING = 4, 2  # its severities; it starts with the second


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Inside, nothing arrives on stdout or stderr that a library writes while it is imported, whoever imports it; all else does."""
    if os.environ.get(DEBUG) or any(isinstance(finder, _Silencer) for finder in sys.meta_path):
        yield
        return
    silencer = _Silencer()
    sys.meta_path.insert(0, silencer)
    try:
        yield
    finally:
        sys.meta_path.remove(silencer)


@contextmanager
def quiet_calls() -> Iterator[None]:
    """Inside, libraries log, warn and print nothing. A user's code that is called from there does as it likes."""
    if os.environ.get(DEBUG):
        yield
        return
    runtime = sys.modules.get("onnxruntime")
    if runtime:
        runtime.set_default_logger_severity(ONNXRUNTIME_FATAL)
    try:
        with quiet_warnings(), _users_log_lines(), _detours(lambda _, file: os.path.realpath(file).startswith(INSTALLED)):
            yield
    finally:
        if runtime:
            runtime.set_default_logger_severity(ONNXRUNTIME_WARNING)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Inside, what libraries warn of themselves is dropped; a warning that points at other code is not."""
    with warnings.catch_warnings():
        if not os.environ.get(DEBUG):
            warnings.filterwarnings("ignore", module=rf"({'|'.join(WARNING)})(\.|$)")
        yield


@contextmanager
def _users_log_lines() -> Iterator[None]:
    """Inside, handlers drop what comes from an installed package or from edgemm: all handlers, since torch makes new ones on the way."""
    ours = (*INSTALLED, STANDARD, str(Path(__file__).parents[1]))
    handle = logging.Handler.handle

    def selective(handler: logging.Handler, record: logging.LogRecord) -> Any:
        return not os.path.realpath(record.pathname).startswith(ours) and handle(handler, record)

    logging.Handler.handle = selective  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        logging.Handler.handle = handle  # type: ignore[method-assign]


class _Silencer:
    """A finder of modules that lets the others find, and has the libraries' modules run in silence."""

    def __init__(self) -> None:
        self._is_silent = False  # a library is being imported: what it imports is silent already

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if self._is_silent or name.partition(".")[0] not in NAMES:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        spec = next((spec for finder in finders if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._run, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _run(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        self._is_silent = True
        try:
            with _silence():
                run(module)
        finally:
            self._is_silent = False


@contextmanager
def _silence() -> Iterator[None]:
    """What Python and C code write to stdout and stderr is kept; where the block raises, as a note of the error (``__notes__``)."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as written:
        try:
            with _captured(written.fileno()), _detours(lambda text, _: bool(written.write(text))), quiet_warnings():
                try:
                    yield
                finally:
                    written.flush()
        except BaseException as err:
            written.seek(0)
            if text := written.read().strip():
                err.__notes__ = [*getattr(err, "__notes__", []), f"It was written meanwhile:\n{text}"]
            raise


@contextmanager
def _detours(takes: Callable[[str, str], bool]) -> Iterator[None]:
    """What is printed is offered to ``takes`` first, with the file of the code that prints."""
    out, err = _Detour(sys.stdout, takes), _Detour(sys.stderr, takes)
    try:
        with redirect_stdout(cast("TextIO", out)), redirect_stderr(cast("TextIO", err)):
            yield
    finally:
        out.takes = err.takes = None


class _Detour:
    """Stands for a stream. Handlers of log lines keep the one that they find when a library is imported: afterwards it passes all on."""

    def __init__(self, stream: TextIO | None, takes: Callable[[str, str], bool]) -> None:
        self._stream, self.takes = stream, cast("Callable[[str, str], bool] | None", takes)

    def write(self, text: str) -> int:
        if not (text and self.takes and self.takes(text, sys._getframe(1).f_code.co_filename)) and self._stream is not None:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _captured(file: int) -> Iterator[None]:
    """Both streams of the process go to ``file``: C code writes there too."""
    with ExitStack() as stack:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            if stream is not None:
                stream.flush()
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file, number)
        yield
