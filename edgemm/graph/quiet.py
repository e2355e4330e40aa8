"""Silence for the libraries of the border: their prints, log lines and warnings are not for the user."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnxruntime

SILENT, WARNINGS = 4, 2  # ONNX Runtime's severities: fatal only; its default


@contextlib.contextmanager
def quiet(*, streams: bool = True) -> Iterator[None]:
    """Inside, Python code logs and warns nothing; with ``streams`` it prints nothing either, which would silence progress too."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(SILENT)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            if streams:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            yield
    finally:
        logging.disable(disabled)
        onnxruntime.set_default_logger_severity(WARNINGS)
