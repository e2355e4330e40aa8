"""Whether a graph answers each row for itself, and the same each time it is asked; what a box, which asks row by row, takes for granted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from edgemm.contracts.rung import Difference
from edgemm.errors import ExportError
from edgemm.graph import parity
from edgemm.graph.onnx_card import batch_axes

RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear")
"""Where rounding may flip, or a range is taken of all rows: such a graph may differ by rounding, as a target may."""
TIMES = 3
"""How often one sample is asked."""
ALONE = "a box asks row by row, so such a model answers there otherwise than it was judged."
OWN_ROW = (
    "take what comes from the batch (a mean, a norm, a softmax over axis 0) from each row alone, or from running statistics kept in a "
    "buffer, and train the model again."
)
NO_CHANCE = "draw at random in training only: `if self.training`, nn.Dropout, or F.dropout(x, p, training=self.training)."
Arrays = Mapping[str, np.ndarray]


def require_own_answers(model: onnx.ModelProto, samples: Sequence[Arrays]) -> None:
    """Refuse a graph whose answer to a sample is drawn by chance, or depends on the other samples of the batch.

    Args:
        samples: Different ones, of batch size 1, by the graph's input names.

    Raises:
        ExportError: It does; names the node where the answers part.
    """
    session = parity.reference_session(model)
    answers = [_asked(session, model, samples[0]) for _ in range(TIMES)]
    for name, first in answers[0].items():
        errors = [parity.difference(first, other[name]) if first.shape == other[name].shape else None for other in answers[1:]]
        if any(error is None or not parity.within(error) for error in errors):
            node = next(_random_nodes(model.graph), None)
            raise ExportError(
                f"{_node(node)}: output '{name}' is drawn by chance.",
                why="asked twice with the same sample, the graph answers differently.",
                fix=f"export the model in eval mode; {NO_CHANCE}",
            )
    together = _together(model, samples)
    if together is not None:
        _require_alike(model, samples[0], together, len(samples))


def row_of(many: np.ndarray, one: np.ndarray, row: int, rows: int) -> list[np.ndarray]:
    """What of an array of all rows may be the array of one row alone; [] where their shapes do not tell.

    Rows lie along the axis that is so many times as long; where each has several positions there, one after the other or interleaved.
    """
    if many.shape == one.shape:
        return [many]
    axes = [axis for axis, (all_, own) in enumerate(zip(many.shape, one.shape, strict=False)) if all_ != own]
    if many.ndim != one.ndim or len(axes) != 1 or many.shape[axes[0]] != rows * one.shape[axes[0]]:
        return []
    size, moved = one.shape[axes[0]], np.moveaxis(many, axes[0], 0)
    return [np.moveaxis(part, 0, axes[0]) for part in (moved[row * size : (row + 1) * size], moved[row::rows])]


def apart(many: np.ndarray, one: np.ndarray, row: int, rows: int) -> Difference | None:
    """How far a row's answer among others is from its answer alone; None where the shapes do not tell."""
    found = [parity.difference(one, part) for part in row_of(many, one, row, rows)]
    return min(found, key=lambda error: error.max_abs, default=None)


def _asked(session: onnxruntime.InferenceSession, model: onnx.ModelProto, feed: Arrays) -> dict[str, np.ndarray]:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, parity.asked(session, model, feed), strict=True))


def _random_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes that draw: random ones, and dropouts in training mode; those inside of loops and conditions too."""
    for node in graph.node:
        if node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _random_nodes(attribute.g)


def _node(node: onnx.NodeProto | None) -> str:
    return "the graph" if node is None else f"node '{node.name or node.output[0]}' ({node.op_type})"


def _together(model: onnx.ModelProto, samples: Sequence[Arrays]) -> dict[str, np.ndarray] | None:
    """The samples as one batch; None where the graph takes one sample a call."""
    batch: dict[str, np.ndarray] = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        axes, arrays = batch_axes(value), [sample[value.name] for sample in samples]
        if axes and all(array.shape[axes[0]] == 1 for array in arrays):
            batch[value.name] = np.concatenate(arrays, axes[0])
        elif axes or any(not np.array_equal(arrays[0], array) for array in arrays):
            return None
        else:
            batch[value.name] = arrays[0]
    return batch if any(len(batch[name]) != len(samples[0][name]) or batch[name].ndim > 1 for name in batch) else None


def _require_alike(model: onnx.ModelProto, sample: Arrays, together: Arrays, rows: int) -> None:
    try:
        many = _asked(parity.reference_session(model), model, together)
    except Exception:  # a size written down inside: the graph takes one sample a call, whatever it says
        return
    one = _asked(parity.reference_session(model), model, sample)
    rounds = any(node.op_type in QUANTIZERS for node in model.graph.node)
    for name, answer in one.items():
        error = apart(many[name], answer, 0, rows)
        if error is None or parity.within(error) or (rounds and error.sqnr_db > parity.TARGET_SQNR_DB):
            continue
        raise ExportError(
            f"{_node(_first_apart(model, sample, together, rows))}: a row's answer depends on the other rows of its batch.",
            why=f"output '{name}' of one row alone is {error.max_abs:.3g} off from the same row among {rows} (its scale is "
            f"{error.scale:.3g}); {ALONE}",
            fix=OWN_ROW,
        )


def _first_apart(model: onnx.ModelProto, sample: Arrays, together: Arrays, rows: int) -> onnx.NodeProto | None:
    """The first node whose values part."""
    node: onnx.NodeProto
    traced = parity.reference_session(parity.with_outputs(model, [name for node in model.graph.node for name in node.output if name]))
    one, many = _asked(traced, model, sample), _asked(traced, model, together)
    for node in model.graph.node:
        for name in node.output:
            if name in one and one[name].dtype.kind in "fiub":
                error = apart(many[name], one[name], 0, rows)
                if error is not None and not parity.within(error):
                    return node
    return None
