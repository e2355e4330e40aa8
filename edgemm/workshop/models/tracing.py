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
from edgemm.workshop.models.exportable import Unwritable, exportable
from edgemm.workshop.models.fused import FusedModel

PREFIX = "fused.module."
"""What stands before the names of the user's modules while a model is exported."""


def capture(wrapper: nn.Module, features: tuple[torch.Tensor, ...], shapes: tuple[Any, ...], model: FusedModel) -> Any:
    """torch.export, its failures turned into words.

    Raises:
        ExportError: The model cannot be traced; names the line of the user's code where it is known.
    """
    try:
        with exportable():
            return torch.export.export(wrapper, features, dynamic_shapes=(shapes,), strict=False)
    except EdgemmError:
        raise
    except Unwritable as err:
        raise ExportError(f"{place_of(frames_of(err), model)}: {err}", why=err.why, fix=err.fix) from err
    except UserError as err:
        place = _specialising_place(wrapper, features, shapes, model)
        raise ExportError(
            f"{place}: the size '{_violated(err)}' is fixed to a number there.",
            why=" ".join(str(err).split("Suggested fixes")[0].split()[:40]) if place == Place.UNKNOWN else "",
            fix="take sizes from the tensor (x.shape[0], never len(x); -1 in view) and do not loop over the batch.",
        ) from err
    except GuardOnDataDependentSymNode as err:
        raise ExportError(
            f"{place_of(frames_of(err), model)}: the code takes a decision on a value that exists only when the model runs.",
            why="a graph has no Python `if`, `int()` or `.item()` on tensor values.",
            fix="use torch.where, masks or fixed sizes there instead.",
        ) from err
    except Exception as err:  # whatever the user's forward raises
        raise ExportError(
            f"{place_of(frames_of(err), model)}: {_first_line(err)}",
            why="raised while torch.export ran the model on samples of the card's shapes.",
            fix="compare the card's inputs with what forward expects; use torch operations only (no numpy, no C++ calls) inside forward.",
        ) from err


def _violated(err: UserError) -> str:
    match = re.search(r"Constraints violated \((\w+)", str(err))
    return match[1] if match else BATCH


def _first_line(err: BaseException) -> str:
    return next((line.strip() for line in str(err).splitlines() if line.strip()), type(err).__name__)


@dataclass(frozen=True)
class Place:
    """A line of the user's model, in words."""

    module: str
    file: str = ""
    line: int = 0
    code: str = ""
    UNKNOWN = "the model"

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}: `{self.code}`" if self.file else ""
        return " at ".join(part for part in (self.module, at) if part)


def frames_of(err: BaseException) -> list[tuple[FrameType, int]]:
    """Frames and lines through which an error came, innermost last."""
    return list(traceback.walk_tb(err.__traceback__))


def place_of(frames: Iterable[tuple[FrameType, int]], model: FusedModel) -> Place:
    """The innermost line of the user's own code, else of a library, and the innermost module of the model that was running."""
    names = {id(module): name for name, module in model.module.named_modules()}
    module, own, library = Place.UNKNOWN, None, None
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
        return Place(module)
    return Place(module, _shown(location[0]), location[1], linecache.getline(*location).strip())


def _is_ours(file: str) -> bool:
    """Whether a file is torch's, Python's or the plumbing of this one: not the user's model."""
    folder = Path(fused.__file__).parent
    names = ("onnx_export.py", "fused.py", "frontend.py", "tracing.py", "exportable.py", "row_by_row.py")
    plumbing = {str(folder / name) for name in names}
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
    places: list[Place] = []
    original = ShapeEnv._set_replacement

    def watch(self: Any, symbol: Any, target: Any, message: str) -> None:
        if getattr(target, "is_number", False):
            places.append(place_of(reversed(list(traceback.walk_stack(sys._getframe(1)))), model))
        original(self, symbol, target, message)

    with exportable(), mock.patch.object(ShapeEnv, "_set_replacement", watch), contextlib.suppress(Exception):
        torch.export.export(wrapper, features, dynamic_shapes=(shapes,), strict=False)
    return next((place for place in places if place.file), Place.UNKNOWN)


def _calling(operator: str | None, program: torch.export.ExportedProgram) -> torch.fx.Node | None:
    """The first node that calls an operator of that name."""
    return next((node for node in program.graph.nodes if operator and operator in str(node.target).split(".")), None)


def untranslatable(err: Exception, captured: torch.export.ExportedProgram) -> ExportError:
    """An operator that has no ONNX form, with the line that calls it."""
    text = f"{err} {err.__cause__ or ''}"
    operator = re.search(r"op='([\w.]+)'", text)
    name = operator[1].split(".")[1].strip("_") if operator else None  # decomposing adds an underscore: linalg_svd, _linalg_svd
    node = _calling(name, captured) or _calling(name, captured.run_decompositions())  # eigvals is linalg_eig only when taken apart
    return ExportError(
        f"{_where(node)}: {f'ONNX has no form of {operator[1]}' if operator else _first_line(err)}.",
        why="the exporter knows how to write only part of torch's operators.",
        fix="write the same thing with simpler torch operations, or move it out of the model.",
    )


def require_writable(captured: torch.export.ExportedProgram) -> None:
    """Refuse what the exporter would work on without end: it writes the overlapping frames of an inverse STFT one by one.

    Raises:
        ExportError: Names the line that calls it.
    """
    node = _calling("istft", captured)
    if node is not None:
        raise ExportError(
            f"{_where(node)}: ONNX has no form of istft.",
            why="the exporter would take it apart into thousands of small steps, and not end.",
            fix="return the spectrum and compute the sound from it outside of the model; or add the frames up with F.conv_transpose1d: the "
            "rows of the inverse Fourier transform times the window as weights, the hop as stride.",
        )


def _where(node: torch.fx.Node | None) -> str:
    """Module and line of the user's code that call an operator."""
    if node is None:
        return "the model"
    lines = re.findall(r'File "([^"]+)", line (\d+), in \w+\s*\n\s*(.+)', node.meta.get("stack_trace") or "")
    lines = [entry for entry in lines if not _is_ours(entry[0])]
    modules = [str(path).removeprefix(PREFIX) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    module = f"module '{modules[-1]}'" if modules and modules[-1] not in ("", "fused", "fused.module") else "the model"
    return str(Place(module, _shown(lines[-1][0]), int(lines[-1][1]), lines[-1][2].strip()) if lines else Place(module))
