"""``fleet.yaml``: which boards there are, and what may be done on each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgemm.box.remote.ssh import parse as parse_address
from edgemm.contracts import written
from edgemm.errors import Collector, RemoteError, nearest
from edgemm.store import utf8

LOCAL = "local"
"""Stands where an address does, for this machine."""
KEYS = ("defaults", "boards")
OPTIONS: dict[str, type] = {"setup": bool, "fallback": bool, "target": str}
NAME = r"[A-Za-z0-9][\w.-]*"
FIX = "write boards: {porch: ssh://nvidia@porch, desk: {url: ssh://pi@desk, fallback: true}, here: local}."


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name: A word; a folder is called by it.
        url: ``local`` or ``ssh://user@host:port``.
        setup, fallback: As ``--setup`` and ``--fallback`` of ``benchmark``.
        target: Measure on this target only; None = on each that can run there.
    """

    name: str
    url: str
    setup: bool = False
    fallback: bool = False
    target: str | None = None


def load(path: Path, *, defaults: Mapping[str, Any] | None = None) -> list[Board]:
    """The boards of a file.

    Args:
        defaults: Options of boards for which the file says nothing.

    Raises:
        RemoteError: The file cannot be read, or has one mistake.
        Mistakes: All of them.
    """
    try:
        plain = written.load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as err:
        raise RemoteError(f"cannot read {path}.", why=utf8.why(err), fix=utf8.fix(path, err)) from err
    except (OSError, yaml.YAMLError) as err:
        raise RemoteError(f"cannot read {path}.", why=" ".join(str(err).split()), fix=FIX) from err
    if not isinstance(plain, dict):
        raise RemoteError(f"{path} is not a mapping.", fix=FIX)
    mistakes = Collector()
    for key in plain:
        if key not in KEYS:
            mistakes.add(RemoteError(f"{path}: unknown key '{key}'.", fix=nearest(str(key), KEYS)))
    common = {**(defaults or {}), **_options(plain.get("defaults"), f"{path}: defaults", mistakes)}
    boards = plain.get("boards")
    if not isinstance(boards, dict) or not boards:
        mistakes.add(RemoteError(f"{path} names no board.", why="'boards' is no mapping of names to addresses.", fix=FIX))
        boards = {}
    found = [_board(str(name), entry, common, f"{path}: boards.{name}", mistakes) for name, entry in boards.items()]
    mistakes.raise_if_any()
    return [board for board in found if board is not None]


def _board(name: str, entry: Any, common: Mapping[str, Any], where: str, mistakes: Collector) -> Board | None:
    if not re.fullmatch(NAME, name):
        mistakes.add(RemoteError(f"{where}: '{name}' is no name of a board.", fix="use letters, digits, dots, dashes and underscores."))
    options = {"url": entry} if isinstance(entry, str) else entry
    if not isinstance(options, dict) or not isinstance(options.get("url"), str):
        mistakes.add(RemoteError(f"{where} has no address.", fix="write ssh://user@host, or local, or a mapping with url."))
        return None
    url, more = options["url"], {key: value for key, value in options.items() if key != "url"}
    if url != LOCAL:
        try:
            parse_address(url)
        except RemoteError as err:
            mistakes.add(RemoteError(f"{where}: {err.what}", why=err.why, fix=err.fix))
    return Board(name, url, **{**common, **_options(more, where, mistakes)})


def _options(plain: Any, where: str, mistakes: Collector) -> dict[str, Any]:
    """What a mapping says of a board, without what is wrong in it."""
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        mistakes.add(RemoteError(f"{where} is not a mapping.", fix=f"it has the keys {', '.join(OPTIONS)}."))
        return {}
    good = {}
    for key, value in plain.items():
        if key not in OPTIONS:
            mistakes.add(RemoteError(f"{where}: unknown key '{key}'.", fix=nearest(str(key), OPTIONS)))
        elif not isinstance(value, OPTIONS[key]):
            words = "true or false" if OPTIONS[key] is bool else "the name of a target"
            mistakes.add(RemoteError(f"{where}.{key}: '{value}' is not {words}.", fix=f"write {words}."))
        else:
            good[key] = value
    return good
