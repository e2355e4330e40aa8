"""A torch.export archive (``.pt2``) as a module, opened only when nothing in it can run code."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2  # torch.export.load falls back to an older format that reads other members

from edgemm.errors import CheckpointError, TrainError
from edgemm.store import json_text

DATA = re.compile(r"(data/(weights|constants)/[^/]+|.*\.json|archive_format|archive_version|version|byteorder|\.data/.*|extra/.*)")
"""Members read as bytes or text, never unpickled, unless a ``*_config.json`` says ``use_pickle``."""
NATIVE = re.compile(r"data/(aotinductor|executorch|mtia)|data/constants/(custom|opaque)_obj_")
TARGETS = re.compile(
    r"torch\.ops(\.\w+){2,3}|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|lt|le|gt|ge|eq|ne|and_|or_|not_)"
)
"""What a node may call: operators. A name such as ``torch.hub.load`` would be called just the same."""
EXPRESSION = re.compile(r"(?:Symbol\('\w+'|[a-z]+=(?:True|False)|[suz]\d+|[A-Z]\w*|\d+(?:\.\d+)?|[\s+\-*/%(),<>=&|~!])*")
"""A symbolic size: sympy evaluates it as Python, so nothing but symbols, functions and operators may stand there."""


class Exported(nn.Module):
    """An exported program that answers like any module. It has no training mode."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.graph = program.module()
        self.forward = self.graph.forward  # its signature is the model's own

    def train(self, mode: bool = True) -> Exported:
        if mode:
            raise TrainError(
                "an exported program (.pt2) cannot be trained.",
                why="what differs between training and use (dropout, batch norm) was fixed when it was exported.",
                fix="give a card with the factory and the weights it was exported from.",
            )
        return self


def load_exported(path: Path) -> Exported:
    """Open a ``.pt2``.

    Raises:
        CheckpointError: Missing, damaged, of an older format, or holding anything that could run code; nothing of it has run.
    """
    if not path.is_file():
        raise CheckpointError(f"no exported program at '{path}'.", fix="check `model:` in the card.")
    _refuse_code(path)
    try:
        return Exported(load_pt2(str(path)).exported_programs["model"])
    except Exception as err:
        raise CheckpointError(
            f"cannot open the exported program '{path}'.",
            why=f"{type(err).__name__}: {str(err).strip().splitlines()[0] if str(err).strip() else 'no reason given'}",
            fix="export and save it again with this torch (torch.export.save).",
        ) from err


def _refuse_code(path: Path) -> None:
    try:
        with PT2ArchiveReader(str(path)) as archive:  # the reader that will load it, so that both see the same members
            members = {name: archive.read_bytes(name) for name in archive.get_file_names()}
    except (RuntimeError, ValueError) as err:
        raise CheckpointError(
            f"'{path}' is not a torch.export archive, or is damaged.",
            why=str(err).strip().splitlines()[0],
            fix="save it again with torch.export.save.",
        ) from err
    if len({name.lower() for name in members}) != len(members):
        _refuse(path, "two members share a name")
    for name, content in members.items():
        if NATIVE.match(name):
            _refuse(path, f"'{name}' is native code or a pickled object")
        if name.endswith(".json"):
            _check_json(path, name, content, members)
        elif not DATA.fullmatch(name):
            _check_pickle(path, name, content)


def _check_json(path: Path, name: str, content: bytes, members: dict[str, bytes]) -> None:
    try:
        plain = json_text.loads(content)
    except ValueError as err:
        raise CheckpointError(f"'{path}' is damaged: '{name}' is not JSON.", fix="save it again with torch.export.save.") from err
    for key, value in _walk(plain):
        if key == "target" and isinstance(value, str) and not TARGETS.fullmatch(value):
            _refuse(path, f"'{name}' calls {value!r}")
        if key == "expr_str" and not EXPRESSION.fullmatch(str(value)):
            _refuse(path, f"'{name}' holds the expression {str(value)[:60]!r}")
        if isinstance(value, dict) and value.get("use_pickle"):
            member = name.rpartition("/")[0] + "/" + str(value.get("path_name"))
            _check_pickle(path, member, members.get(member, b""))


def _check_pickle(path: Path, name: str, content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign pickle protocol is no news: it is refused or it is data
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as err:
        _refuse(path, f"'{name}' holds more than tensors ({str(err).strip().splitlines()[0][:120] if str(err).strip() else 'unreadable'})")


def _walk(plain: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of nested JSON, without recursion."""
    waiting = [plain]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _refuse(path: Path, reason: str) -> NoReturn:
    raise CheckpointError(
        f"'{path}' is refused: it could run code when opened.",
        why=f"{reason}.",
        fix="export the model again from its source with torch.export.save, on example inputs that are plain tensors.",
    )
