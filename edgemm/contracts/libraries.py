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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

DEBUG = "EDGEMM_DEBUG"
NAMES = (
    "edgemm", "torch", "torchao", "torchmetrics", "accelerate", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "nncf",
    "openvino", "tensorrt", "tensorrt_rtx", "importlib", "copyreg",
)  # fmt: skip
"""Packages whose warnings tell a user nothing that he could act on."""
INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib", "stdlib"))
ONNXRUNTIME_FATAL, ONNXRUNTIME_WARNING = 4, 2  # its severities; it starts with the second


@contextmanager
def quiet_import() -> Iterator[None]:
    """Inside, nothing that Python or C code writes to stdout or stderr arrives there. Only for imports: it is the whole process.

    Where the block raises, what was written is a note of the error (``__notes__``), which a traceback shows.
    """
    if os.environ.get(DEBUG):
        yield
        return
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
def quiet_calls() -> Iterator[None]:
    """Inside, libraries log and warn nothing. A user's code called from there does both, and prints as it likes."""
    if os.environ.get(DEBUG):
        yield
        return
    named = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    loggers = [logging.root, *named]
    runtime = sys.modules.get("onnxruntime")
    for logger in loggers:
        logger.addFilter(_is_of_the_user)
    try:
        if runtime:
            runtime.set_default_logger_severity(ONNXRUNTIME_FATAL)
        with quiet_warnings():
            yield
    finally:
        if runtime:
            runtime.set_default_logger_severity(ONNXRUNTIME_WARNING)
        for logger in loggers:
            logger.removeFilter(_is_of_the_user)


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Inside, what libraries warn of themselves is dropped; a warning that points at other code is not."""
    with warnings.catch_warnings():
        if not os.environ.get(DEBUG):
            warnings.filterwarnings("ignore", module=rf"({'|'.join(NAMES)})(\.|$)")
        yield


def _is_of_the_user(record: logging.LogRecord) -> bool:
    """Whether a log line comes from neither an installed package nor edgemm."""
    return not os.path.realpath(record.pathname).startswith((*INSTALLED, str(Path(__file__).parents[1])))


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
