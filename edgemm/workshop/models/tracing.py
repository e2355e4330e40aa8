"""torch.export, with its failures told by module and line of the user's model."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

from edgemm.contracts.specs import BATCH
from edgemm.errors import EdgemmError, ExportError
from edgemm.workshop.models import fused
from edgemm.workshop.models.fused import FusedModel

PREFIX = "fused.module."
"""What stands before the names of the user's modules while a model is exported."""


def capture(wrapper: nn.Module, features: tuple[torch.Tensor, ...], shapes: tuple[Any, ...], model: FusedModel) -> Any:
    """torch.export, its failures turned into words.

    Raises:
        ExportError: The model cannot be traced; names the line of the user's code where it is known.
    """
    try:
        return torch.export.export(wrapper, features, dynamic_shapes=(shapes,), strict=False)
    except EdgemmError:
        raise
    except UserError as err:
        place = _specialising_place(wrapper, features, shapes, model)
        raise ExportError(
            f"{place}: the size '{_violated(err)}' is fixed to a number there.",
            why=" ".join(str(err).split("Suggested fixes")[0].split()[:40]) if place == _Place.UNKNOWN else "",
            fix="take sizes from the tensor (x.shape[0], -1 in view, torch.zeros(x.shape[0], ...)) and do not loop over the batch.",
        ) from err
    except GuardOnDataDependentSymNode as err:
        raise ExportError(
            f"{_place(_frames(err), model)}: the code takes a decision on a value that exists only when the model runs.",
            why="a graph has no Python `if`, `int()` or `.item()` on tensor values.",
            fix="use torch.where, masks or fixed sizes there instead.",
        ) from err
    except Exception as err:  # whatever the user's forward raises
        raise ExportError(
            f"{_place(_frames(err), model)}: {_first_line(err)}",
            why="raised while torch.export ran the model on samples of the card's shapes.",
            fix="compare the card's inputs with what forward expects; use torch operations only (no numpy, no C++ calls) inside forward.",
        ) from err


def _violated(err: UserError) -> str:
    match = re.search(r"Constraints violated \((\w+)", str(err))
    return match[1] if match else BATCH


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


@dataclass(frozen=True)
class _Place:
    """A line of the user's model, in words."""

    module: str
    file: str = ""
    line: int = 0
    code: str = ""
    UNKNOWN = "the model"

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}: `{self.code}`" if self.file else ""
        return " at ".join(part for part in (self.module, at) if part)


def _frames(err: BaseException) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_tb(err.__traceback__))


def _place(frames: Iterable[tuple[FrameType, int]], model: FusedModel) -> _Place:
    """The innermost line of the user's own code, else of a library, and the innermost module of the model that was running."""
    names = {id(module): name for name, module in model.module.named_modules()}
    module, own, library = _Place.UNKNOWN, None, None
    for frame, line in frames:
        subject = frame.f_locals.get("self")
        if id(subject) in names and isinstance(subject, nn.Module):
            name = names[id(subject)]
            module = f"module '{name}' ({type(subject).__name__})" if name else f"the model ({type(subject).__name__})"
        file = frame.f_code.co_filename
        if _is_ours(file):
            continue
        if "site-packages" in file:
            library = (file, line)
        else:
            own = (file, line)
    location = own or library
    if location is None:
        return _Place(module)
    return _Place(module, _shown(location[0]), location[1], linecache.getline(*location).strip())


def _is_ours(file: str) -> bool:
    """Whether a file is torch's, Python's or the plumbing of this one: not the user's model."""
    folder = Path(fused.__file__).parent
    plumbing = {str(folder / name) for name in ("onnx_export.py", "fused.py", "frontend.py", "tracing.py")}
    roots = (str(Path(torch.__file__).parent), sysconfig.get_paths()["stdlib"])
    return file.startswith("<") or file in plumbing or (file.startswith(roots) and "site-packages" not in file.replace(roots[0], ""))


def _shown(file: str) -> str:
    """Relative to the current directory where that is shorter."""
    with contextlib.suppress(ValueError):
        relative = os.path.relpath(file)
        return relative if not relative.startswith("..") else file
    return file


def _specialising_place(wrapper: nn.Module, features: tuple[torch.Tensor, ...], shapes: tuple[Any, ...], model: FusedModel) -> Any:
    """Where the user's code made the batch size a number: traced again, watching for it."""
    places: list[_Place] = []
    original = ShapeEnv._set_replacement

    def watch(self: Any, symbol: Any, target: Any, message: str) -> None:
        if getattr(target, "is_number", False):
            places.append(_place(reversed(list(traceback.walk_stack(sys._getframe(1)))), model))
        original(self, symbol, target, message)

    with mock.patch.object(ShapeEnv, "_set_replacement", watch), contextlib.suppress(Exception):
        torch.export.export(wrapper, features, dynamic_shapes=(shapes,), strict=False)
    return next((place for place in places if place.file), _Place.UNKNOWN)


def _calling(operator: str | None, program: torch.export.ExportedProgram) -> torch.fx.Node | None:
    """The first node that calls an operator of that name."""
    return next((node for node in program.graph.nodes if operator and operator in str(node.target).split(".")), None)


def untranslatable(err: Exception, captured: torch.export.ExportedProgram) -> ExportError:
    """An operator that has no ONNX form, with the line that calls it."""
    text = f"{err} {err.__cause__ or ''}"
    operator = re.search(r"op='([\w.]+)'", text)
    name = operator[1].split(".")[1].strip("_") if operator else None  # decomposing adds an underscore: linalg_svd, _linalg_svd
    node = _calling(name, captured) or _calling(name, captured.run_decompositions())  # eigvals is linalg_eig only when taken apart
    where = "the model"
    if node is not None:
        lines = re.findall(r'File "([^"]+)", line (\d+), in \w+\s*\n\s*(.+)', node.meta.get("stack_trace") or "")
        lines = [entry for entry in lines if not _is_ours(entry[0])]
        modules = [str(path).removeprefix(PREFIX) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        module = f"module '{modules[-1]}'" if modules and modules[-1] not in ("", "fused", "fused.module") else "the model"
        where = str(_Place(module, _shown(lines[-1][0]), int(lines[-1][1]), lines[-1][2].strip()) if lines else _Place(module))
    return ExportError(
        f"{where}: {f'ONNX has no form of {operator[1]}' if operator else _first_line(err)}.",
        why="the exporter knows how to write only part of torch's operators.",
        fix="write the same thing with simpler torch operations, or move it out of the model.",
    )
