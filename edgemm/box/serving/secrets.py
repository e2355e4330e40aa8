"""Passwords: read from the environment or a file, never from the command line, and blotted out wherever words leave the process."""

from __future__ import annotations

import logging
import os
import re
import traceback
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from edgemm.errors import RunError

IN_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
BLOT = "***"

_known: set[str] = set()


def secret(env: str | None, file: str | None, what: str, *, hide: bool = True) -> str | None:
    """The secret that an environment variable or a file holds; None where neither is named. From now on ``redact`` blots it out.

    Args:
        what: How a message calls it, such as ``sinks.mqtt: password``.
        hide: Blot it out. A user's name is no secret by itself, and is often a common word.

    Raises:
        RunError: The variable is not set, the file cannot be read, or it is empty.
    """
    if env is not None:
        value = os.environ.get(env, "")
        if not value:
            raise RunError(f"{what}: the environment variable '{env}' is not set.", fix=f"set it before the start: export {env}=...")
    elif file is not None:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as err:
            raise RunError(f"{what}: cannot read '{file}'.", why=f"{err.strerror}.", fix="check the path and its permissions.") from err
        if not value:
            raise RunError(f"{what}: '{file}' is empty.", fix="write the secret into it, in one line.")
    else:
        return None
    if hide:
        remember(value)
    return value


def remember(value: str) -> None:
    """Have ``redact`` blot out ``value`` wherever it occurs; very short ones would blot out ordinary words and are left."""
    if len(value) >= 3:
        _known.update({value, quote(value, safe="")})


def redact(text: str) -> str:
    """``text`` without user and password in its URLs, and without any secret that was read."""
    text = IN_URL.sub(rf"\g<scheme>{BLOT}@", text)
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, BLOT)
    return text


def refuse_password(url: str, what: str) -> None:
    """Raises RunError where ``url`` carries a user or a password."""
    if IN_URL.search(url):
        raise RunError(
            f"{what}: the address '{redact(url)}' carries a user or password.",
            why="what stands on a command line or in a settings file is read by others.",
            fix="leave it out of the address; in run.yaml set user_env and password_env (or password_file).",
        )


def with_password(url: str, user: str | None, password: str | None) -> str:
    """``url`` with user and password in it, for a library that takes them in no other way."""
    if user is None:
        return url
    parts = urlsplit(url)
    own = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    return urlunsplit(parts._replace(netloc=f"{own}@{parts.netloc}"))


class Redacting(logging.Filter):
    """Blots out secrets in every record, its arguments and traceback included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


class Crash(Exception):
    """The traceback of another exception, without any secret in it: to be raised from in its place."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(redact("".join(traceback.format_exception(error))))
