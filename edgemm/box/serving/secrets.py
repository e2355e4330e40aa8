"""Passwords: read from the environment or a file, never from the command line, and put where a library wants them."""

from __future__ import annotations

import logging
import os
import re
import traceback
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from edgemm.errors import RunError
from edgemm.redaction import (  # fmt: skip
    BARE,
    BLOT,
    FILLED_LATER,
    IN_HEADER,
    IN_URL,
    is_secret_key,
    is_user_key,
    redact,
    remember,
    secrets_in,
)

VARIABLE = re.compile(r"[A-Za-z_]\w*")
WHOLE = re.compile(r"\s*[A-Za-z][\w+.-]*://(?:[^/?#]*|[^/?#@:\[]*:(?!\d*(?:[/?#]|$)).*)@", re.DOTALL)
HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


def secret(env: str | None, file: str | None, what: str, *, hide: bool = True) -> str | None:
    """The secret that an environment variable or a file holds; None where neither is named. From now on ``redact`` blots it out.

    Args:
        what: How a message calls it, such as ``sinks.mqtt: password``.
        hide: Blot it out. A user's name is no secret by itself, and is often a common word.

    Raises:
        RunError: The variable is not set, the file cannot be read, or it is empty.
    """
    if env is not None:
        if not VARIABLE.fullmatch(env):  # perhaps the secret itself: it is not repeated
            fix = "write the variable's name, not its value."
            raise RunError(f"{what}: what stands there is no name of an environment variable.", fix=fix)
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


def credentials(user_env: str | None, password_env: str | None, password_file: str | None, what: str) -> tuple[str | None, str | None]:
    """User and password, None where none is named.

    Raises:
        RunError: As ``secret``; or a password without a user, which nobody would be asked for.
    """
    user = secret(user_env, None, f"{what}: user", hide=False)
    password = secret(password_env, password_file, f"{what}: password")
    if password is not None and user is None:
        raise RunError(f"{what}: there is a password and no user.", why="it would not be sent.", fix="set user_env as well.")
    return user, password


def refuse_password(url: str, what: str) -> None:
    """Raises RunError where ``url`` carries a user, a password or a token: before its host, in its path or in its query."""
    why = "what stands on a command line or in a settings file is read by others."
    if WHOLE.match(url) or IN_URL.search(url) or ("://" not in url and BARE.match(url)):
        fix = "leave it out of the address; in run.yaml set user_env and password_env (or password_file)."
        scheme = f"{url.partition('://')[0].strip()}://" if "://" in url else ""
        shown = f"{scheme}{BLOT}@{url.rpartition('@')[2]}"
        raise RunError(f"{what}: the address '{redact(shown)}' carries a user or password.", why=why, fix=fix)
    secrets = [one for one in secrets_in(url) if url[one.start : one.end] and not FILLED_LATER.fullmatch(url[one.start : one.end])]
    if secrets:
        shown = f"{url[: min(one.start for one in secrets)]}{BLOT}"  # a value may hold what would end it
        named = ", ".join(dict.fromkeys(f"{one.key}: VARIABLE" for one in secrets))
        in_query = "?" in url[: secrets[0].start]
        way = f"query_env: {{{named}}}" if in_query else f"url_env: {{{named}}}, and {{{secrets[0].key}}} where its value stood"
        fix = f"leave it out of the address; in run.yaml set {way} (for a broker user_env and password_env)."
        message = f"{what}: the address '{redact(shown)}' carries a user or password, or a token, in '{secrets[0].key}'."
        raise RunError(message, why=why, fix=fix)


def refuse_passwords(value: Any, what: str) -> None:
    """Raises RunError where any text in a value carries a password, or an entry of a mapping is a secret by its name."""
    why = "what stands in a settings file is read by others."
    if isinstance(value, str):
        refuse_password(value, what)
        if IN_HEADER.search(value):
            raise RunError(f"{what} holds a header that is a secret.", why=why, fix="set headers_env: {Authorization: VARIABLE}.")
    for entry in value if isinstance(value, list) else ():
        refuse_passwords(entry, what)
    for key, entry in value.items() if isinstance(value, dict) else ():
        if what.endswith("_env"):
            continue
        if isinstance(entry, str) and entry and is_secret_key(str(key)):
            raise RunError(f"{what}: '{key}' looks like a secret.", why=why, fix="give it by an option that ends in _env.")
        refuse_passwords(entry, f"{what}.{key}")


def with_secrets(url: str, url_env: Mapping[str, str] | None, query_env: Mapping[str, str] | None, what: str) -> str:
    """``url`` with what environment variables hold: in place of ``{name}`` for ``url_env``, at the end of its query for ``query_env``.

    Raises:
        RunError: A variable is not set, or a ``{name}`` and ``url_env`` do not fit each other.
    """
    for key, value in _read(url_env, what).items():
        if f"{{{key}}}" not in url:
            raise RunError(f"{what}: url_env names '{key}', and {{{key}}} is not in the address.", fix="write it where the value belongs.")
        url = url.replace(f"{{{key}}}", quote(value, safe=""))
    if "://" in url and (open_words := FILLED_LATER.findall(url)):
        raise RunError(f"{what}: nothing fills {open_words[0]} of the address.", fix=f"url_env: {{{open_words[0][1:-1]}: VARIABLE}}.")
    if not query_env:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(_read(query_env, what), quote_via=quote))))))


def headers_of(headers_env: Mapping[str, str] | None, url: str, what: str) -> dict[str, str]:
    """Headers of a request to ``url``, each from its environment variable.

    Raises:
        RunError: The address takes none, a variable is not set, or what is in it is no header.
    """
    if headers_env and not url.startswith(("http://", "https://")):
        fix = "use user_env and password_env, query_env or url_env."
        raise RunError(f"{what}: headers_env is set, and the address takes no headers.", why="it is not http or https.", fix=fix)
    headers = _read(headers_env, what)
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not value.isprintable() or not value.isascii():
            fix = "it is one line of ASCII, such as Bearer and a token."
            raise RunError(f"{what}: what headers_env gives for '{name}' is no header.", fix=fix)
        remember(value.split()[-1])
    return headers


def _read(env: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """What the environment variables of a mapping hold."""
    return {key: secret(name, None, f"{what}: {key}", hide=not is_user_key(key)) or "" for key, name in (env or {}).items()}


def with_password(url: str, user: str | None, password: str | None) -> str:
    """``url`` with user and password in it, for a library that takes them in no other way."""
    if user is None:
        return url
    parts = urlsplit(url)
    own = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    remember(b64encode(f"{user}:{password or ''}".encode()).decode())  # as a header has it
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
