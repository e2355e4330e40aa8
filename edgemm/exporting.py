"""From a torch model to ONNX: dynamic batch, front-ends in front, the same bytes for the same model."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

from edgemm.card import Card
from edgemm.errors import EdgemmError, ExportError
from edgemm.graph import files
from edgemm.graph.branches import drop_unread
from edgemm.graph.frontend import prepend
from edgemm.graph.quiet import quiet
from edgemm.graph.tidy import SCOPES, tidy
from edgemm.modalities._protocol import modalities
from edgemm.models import fused
from edgemm.models.fused import FusedModel, feature_names
from edgemm.specs import BATCH

TRACED_BATCH = 2  # torch.export treats sizes 0 and 1 as special; 2 is the smallest ordinary one
PREFIX = "fused.module."
RECURRENT = {torch.ops.aten.gru.input: 1, torch.ops.aten.lstm.input: 2}  # operator -> number of states it returns
OLDEST_OPSET = 18  # the exporter writes 18 and converts upwards only


def export_onnx(model: FusedModel, out: Path, *, opset: int = 18, dynamic_length: bool = False) -> Path:
    """Write ``model`` as float ONNX to ``out``: inputs as the box has them, outputs named as the card names them, dynamic batch.

    Args:
        out: The ONNX file; above 2 GB its weights go to ``<out>.data``.
        opset: ONNX opset, at least 18.
        dynamic_length: Leave the length of text inputs open too (1 to the card's length).

    Raises:
        ExportError: The exporter cannot follow the model; names module and line of the user's code where known.
        CardError: The module does not take or return what the card says.
    """
    proto = prepend(trace(model, opset=opset, dynamic_length=dynamic_length).model, model.card)
    if dynamic_length:
        _open_lengths(proto, model.card)
    return files.save(proto, out)


@dataclass(frozen=True)
class Traced:
    """The model without front-ends, in both languages.

    Attributes:
        model: Inputs are what ``forward`` receives (``fused.feature_names``).
        program: torch's graph; names of its nodes are names of ``model``'s tensors where those survived.
    """

    model: onnx.ModelProto
    program: torch.export.ExportedProgram


def trace(model: FusedModel, *, opset: int = 18, dynamic_length: bool = False) -> Traced:
    """Export the module alone.

    Raises:
        ExportError, CardError: As ``export_onnx``.
    """
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"opset {opset} is too old.", why=f"the exporter writes opset {OLDEST_OPSET} and later.", fix="leave --opset out."
        )
    wrapper = _Positional(model).eval()
    # contiguous: of a picture in channels-last order torch writes pooling and flattening as Range and Gather instead of Reshape
    features = tuple(feature.contiguous() for feature in model.features(sample_inputs(model.card)))
    names = feature_names(model.card)
    shapes = tuple(_dynamic(model.card, name, value, dynamic_length) for name, value in zip(names, features, strict=True))
    with quiet(), torch.no_grad(), _recurrent_by_shape():
        captured = _capture(wrapper, features, shapes, model)
        try:
            program = torch.onnx.export(
                captured, dynamo=True, opset_version=opset, input_names=names, output_names=list(model.card.outputs), verbose=False
            )
        except Exception as err:  # the exporter's own errors derive from several bases
            raise _untranslatable(err, captured) from err
    assert program is not None
    assert program.exported_program is not None
    _strip(program.model)
    _name_sizes(program.model, model.card, dynamic_length)
    tidy(program.model, {name: name if name in model.card.inputs else name.removesuffix("_mask") for name in names})
    made = ir.serde.serialize_model(program.model)
    drop_unread(made)
    return Traced(made, program.exported_program)


def sample_inputs(card: Card, batch: int = TRACED_BATCH, seed: int = 0) -> dict[str, torch.Tensor]:
    """Synthetic raw inputs, for tracing."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, modality in modalities(card).items():
        steps = card.inputs[name].steps
        one = [np.stack([modality.synthetic(rng) for _ in range(steps)]) if steps else modality.synthetic(rng) for _ in range(batch)]
        found[name] = torch.from_numpy(np.stack(one))
    return found


class _Positional(nn.Module):
    """What is exported: features in, a tuple of outputs in card order out."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.fused = model

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.fused.call_module(features).values())


@contextlib.contextmanager
def _recurrent_by_shape() -> Iterator[None]:
    """While tracing, let GRU and LSTM tell only their shapes.

    torch's own rule runs them step by step to learn the shape: seconds for a short clip, and it fixes the length of the sequence.
    """
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    table = torch._decomp.global_decomposition_table["post_autograd"]
    saved = [(operator, operator.py_kernels[key], table[operator]) for operator in RECURRENT]
    try:
        for operator, states in RECURRENT.items():
            operator.py_kernels[key] = table[operator] = functools.partial(_recurrent_shape, states)
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, kernel, rule in saved:
            operator.py_kernels[key], table[operator] = kernel, rule
            operator._dispatch_cache.clear()


def _recurrent_shape(
    states: int, input: torch.Tensor, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """Empty tensors of the shapes that aten::gru (one state) or aten::lstm (two) return. An LSTM's output may be projected: its h tells."""
    state = [hx] if states == 1 else list(hx)
    width = state[0].shape[-1] * (2 if bidirectional else 1)
    return input.new_empty((*input.shape[:-1], width)), *(torch.empty_like(h) for h in state)


def _dynamic(card: Card, name: str, value: torch.Tensor, dynamic_length: bool) -> dict[int, Any]:
    axes: dict[int, Any] = {0: torch.export.Dim(BATCH)}
    owner = name if name in card.inputs else name.removesuffix("_mask")
    if dynamic_length and card.inputs[owner].modality == "text":
        axes[value.ndim - 1] = torch.export.Dim(f"{owner}_length", min=2, max=value.shape[-1])
    return axes


def _open_lengths(proto: onnx.ModelProto, card: Card) -> None:
    for value in proto.graph.input:
        if value.name in card.inputs and card.inputs[value.name].modality == "text":
            value.type.tensor_type.shape.dim[-1].dim_param = f"{value.name}_length"


def _capture(wrapper: nn.Module, features: tuple[torch.Tensor, ...], shapes: tuple[Any, ...], model: FusedModel) -> Any:
    """torch.export, its failures turned into words."""
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
    found = re.search(r"Constraints violated \((\w+)", str(err))
    return found[1] if found else BATCH


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
    found = own or library
    if found is None:
        return _Place(module)
    return _Place(module, _shown(found[0]), found[1], linecache.getline(*found).strip())


def _is_ours(file: str) -> bool:
    """Whether a file is torch's, Python's or the plumbing of this one: not the user's model."""
    plumbing = (__file__, fused.__file__)
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


def _untranslatable(err: Exception, captured: torch.export.ExportedProgram) -> ExportError:
    """An operator that has no ONNX form, with the line that calls it."""
    text = f"{err} {err.__cause__ or ''}"
    operator = re.search(r"op='([\w.]+)'", text)
    name = operator[1].split(".")[1].strip("_") if operator else None  # decomposing adds an underscore: linalg_svd, _linalg_svd
    node = next((n for n in captured.graph.nodes if name and name in str(n.target).split(".")), None)
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


def _name_sizes(model: ir.Model, card: Card, dynamic_length: bool) -> None:
    """Give torch's symbols (s77) the names of the axes they stand for."""
    names = {}
    for value in model.graph.inputs:
        assert value.shape is not None  # torch writes them all
        names[str(value.shape[0])] = BATCH
        if dynamic_length and value.name and value.name in card.inputs and card.inputs[value.name].modality == "text":
            names[str(value.shape[-1])] = f"{value.name}_length"
    values = [*model.graph.inputs, *model.graph.outputs, *(output for node in model.graph for output in node.outputs)]
    for value in dict.fromkeys(values):
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and str(size) in names:
                value.shape[axis] = names[str(size)]  # type: ignore[index]


def _strip(model: ir.Model) -> None:
    """Drop what differs between machines (paths in stack traces), and our wrapper's part of every name, in place."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name, model.graph.doc_string = "edgemm", None
    model.graph.metadata_props.clear()
    for index, node in enumerate(model.graph.all_nodes()):
        node.doc_string = None
        node.name = node.name or f"node_{index}"
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        node.metadata_props.clear()
        kept = [scope.removeprefix(PREFIX) for scope in scopes if scope.startswith(PREFIX)]
        if kept:
            node.metadata_props[SCOPES] = repr(kept)
        for output in node.outputs:
            output.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
        if value.name and value.name.startswith(PREFIX):
            value.name = value.name.removeprefix(PREFIX)
