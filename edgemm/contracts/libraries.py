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

DEBUG = "EDGEMM_DEBUG"
NAMES = (
    "torch", "torchao", "torchmetrics", "accelerate", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "nncf", "openvino",
    "tensorrt", "tensorrt_rtx",
)  # fmt: skip
WARNING = (*NAMES, "edgemm", "importlib", "copyreg")
"""Packages whose warnings tell a user nothing that he could act on."""
INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib", "stdlib"))
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
    """Inside, libraries log and warn nothing. A user's code called from there does both, and prints as it likes."""
    if os.environ.get(DEBUG):
        yield
        return
    runtime = sys.modules.get("onnxruntime")
    filtered = _loggers_and_handlers()
    for each in filtered:
        each.addFilter(_is_of_the_user)
    try:
        if runtime:
            runtime.set_default_logger_severity(ONNXRUNTIME_FATAL)
        with quiet_warnings():
            yield
    finally:
        if runtime:
            runtime.set_default_logger_severity(ONNXRUNTIME_WARNING)
        for each in filtered:
            each.removeFilter(_is_of_the_user)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Inside, what libraries warn of themselves is dropped; a warning that points at other code is not."""
    with warnings.catch_warnings():
        if not os.environ.get(DEBUG):
            warnings.filterwarnings("ignore", module=rf"({'|'.join(WARNING)})(\.|$)")
        yield


def _loggers_and_handlers() -> list[logging.Filterer]:
    """All there are. Handlers too: a logger that is made later hands its lines to those of its parents."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    handlers = {id(handler): handler for logger in (logging.root, *loggers) for handler in logger.handlers}
    return [logging.root, *loggers, *handlers.values(), *([logging.lastResort] if logging.lastResort else [])]


def _is_of_the_user(record: logging.LogRecord) -> bool:
    """Whether a log line comes from neither an installed package nor edgemm."""
    return not os.path.realpath(record.pathname).startswith((*INSTALLED, str(Path(__file__).parents[1])))


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
            with _captured(written.fileno()), redirect_stdout(written), redirect_stderr(written), quiet_warnings():
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
