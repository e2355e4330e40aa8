"""From a torch model to ONNX: dynamic batch, front-ends in front, the same bytes for the same model."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from edgemm.card import Card
from edgemm.errors import ExportError
from edgemm.graph import files
from edgemm.graph.frontend import prepend
from edgemm.modalities._protocol import modalities
from edgemm.models.fused import FusedModel
from edgemm.specs import BATCH

TRACED_BATCH = 2  # torch.export treats sizes 0 and 1 as special; 2 is the smallest ordinary one
KEPT_METADATA = ("pkg.torch.onnx.name_scopes",)  # maps a node to its module; the rest holds machine paths and object names
PREFIX = "fused.module."


def export_onnx(model: FusedModel, out: Path, *, opset: int = 18, dynamic_length: bool = False) -> Path:
    """Write ``model`` as float ONNX to ``out``: inputs as the box has them, outputs named as the card names them, dynamic batch.

    Args:
        opset: ONNX opset, at least 18.
        dynamic_length: Leave the length of text inputs open too.

    Raises:
        ExportError: The exporter cannot follow the model; names module and line of the user's code where known.
    """
    graph = trace(model, opset=opset, dynamic_length=dynamic_length)
    return files.save(prepend(graph, model.card), out)


def trace(model: FusedModel, *, opset: int, dynamic_length: bool = False) -> onnx.ModelProto:
    """The model without front-ends as ONNX: inputs are what ``forward`` receives."""
    with quiet(), torch.no_grad():
        program = export_program(model, opset=opset, dynamic_length=dynamic_length)
    _tidy(program.model)
    return ir.serde.serialize_model(program.model)


def export_program(model: FusedModel, *, opset: int, dynamic_length: bool = False) -> Any:
    """The exporter's own result (``torch.onnx.ONNXProgram``)."""
    wrapper = _Positional(model).eval()
    features = model.features(sample_inputs(model.card))
    names = feature_names(model.card)
    shapes = tuple(_dynamic(model.card, name, value, dynamic_length) for name, value in zip(names, features, strict=True))
    return torch.onnx.export(
        wrapper, tuple(features), dynamo=True, opset_version=opset, input_names=names, output_names=list(model.card.outputs),
        dynamic_shapes=(shapes,), verbose=False,
    )  # fmt: skip


def feature_names(card: Card) -> list[str]:
    """Names of what ``forward`` receives, in order: the inputs, and ``<text>_mask`` after a text with a mask."""
    names = []
    for name, spec in card.inputs.items():
        names += [name, f"{name}_mask"] if spec.modality == "text" and spec.options.get("mask") else [name]
    return names


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

    def __init__(self, fused: FusedModel) -> None:
        super().__init__()
        self.fused = fused

    def forward(self, *features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.fused.call_module(features)
        return tuple(outputs[name] for name in self.fused.card.outputs)


def _dynamic(card: Card, name: str, value: torch.Tensor, dynamic_length: bool) -> dict[int, Any]:
    axes = {0: torch.export.Dim(BATCH)}
    owner = name if name in card.inputs else name.removesuffix("_mask")
    if dynamic_length and card.inputs[owner].modality == "text":
        axes[value.ndim - 1] = torch.export.Dim(f"{owner}_length")
    return axes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's prints, log lines and warnings from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _tidy(model: ir.Model) -> None:
    """Drop what differs between machines or has no meaning for edgemm, in place."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name, model.graph.doc_string = "edgemm", None
    model.graph.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    for index, node in enumerate(model.graph.all_nodes()):
        node.doc_string = None
        node.name = node.name or f"node_{index}"
        kept = {key: node.metadata_props[key].replace(PREFIX, "") for key in KEPT_METADATA if key in node.metadata_props}
        node.metadata_props.clear()
        node.metadata_props.update(kept)
        for output in node.outputs:
            output.metadata_props.clear()
    for name in list(model.graph.initializers):
        if name.startswith(PREFIX):
            model.graph.initializers[name].name = name.removeprefix(PREFIX)


__all__ = ["ExportError", "export_onnx", "export_program", "feature_names", "sample_inputs", "trace"]
