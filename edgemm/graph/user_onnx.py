"""A user's ONNX file made fit for the rest of the way: a recent opset, constants folded, no needless If, front-ends in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx import version_converter
from onnx_ir.passes import common

from edgemm.contracts import frontend_ops
from edgemm.contracts.card import Card
from edgemm.contracts.libraries import quiet_calls
from edgemm.contracts.modality import modalities
from edgemm.data.dataset import synthetic
from edgemm.errors import CardError, CheckpointError, ParityError, nearest
from edgemm.graph import files, parity
from edgemm.graph.branches import drop_unread
from edgemm.graph.exporter_leftovers import tidy
from edgemm.graph.frontend import PREFIX, prepend
from edgemm.graph.onnx_card import read

OPSET = 18  # what the exporter writes; every target takes it
OLDEST_OPSET = 13  # the first with one scale a channel in Q/DQ
FIXED_BATCHES = (1, 2, 3)  # a condition on sizes that is the same for these is taken to be the same for all
CHECKED_SAMPLES = 2


def prepare(card: Card, out: Path) -> Path:
    """Write the card's ``model:`` to ``out``, ready for the graph steps; inputs and outputs stay what the card says.

    Constants of the card (``value``) are built in; their inputs stay, unused.

    Raises:
        CheckpointError: The file cannot be read, or is too old to be converted.
        CardError: Inputs or outputs of card and graph differ.
        ParityError: The result computes something else than the file.
    """
    assert card.model_path is not None  # the caller's branch
    original = _with_outputs_of(card, read(card.model_path))
    if any(node.name.startswith(PREFIX) for node in original.graph.node):
        return files.save(original, out)  # edgemm exported it: it is ready and has its front-end
    if any(node.op_type == "DequantizeLinear" for node in original.graph.node):
        return files.save(prepend(original, card), out)  # folding would turn its weights back into float
    samples = _samples(card, original)
    with quiet_calls():
        model = ir.serde.deserialize_model(_converted(original, card.model_path.name))
        _simplify(model, card, samples)
    proto = ir.serde.serialize_model(model)
    drop_unread(proto)
    _check(original, proto, samples, card)
    return files.save(prepend(proto, card), out)


def _with_outputs_of(card: Card, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the card's outputs: those of its own that the card names, or all of its own under the card's names, in order.

    Raises:
        CardError: The card names one the file has not, and the counts differ too.
    """
    graph, card_outputs = model.graph, list(card.outputs)
    file_outputs = {value.name: value for value in graph.output}
    if not set(card_outputs) <= set(file_outputs):
        if len(card_outputs) != len(file_outputs):
            missing = next(name for name in card_outputs if name not in file_outputs)
            raise CardError(
                f"'{card.model}' has no output '{missing}'.", why=f"it has {', '.join(file_outputs)}.", fix=nearest(missing, file_outputs)
            )
        for old, new in zip(list(file_outputs), card_outputs, strict=True):
            graph.node.add(op_type="Identity", input=[old], output=[new], name=f"{new}_named")
            file_outputs[new] = onnx.ValueInfoProto()
            file_outputs[new].CopyFrom(file_outputs[old])
            file_outputs[new].name = new
    kept = [file_outputs[name] for name in card_outputs]
    del graph.output[:]
    graph.output.extend(kept)
    return model


def _converted(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model in opset ``OPSET``; in its own where that is newer, or cannot be converted but is recent enough."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset >= OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as err:  # the converter's errors derive from RuntimeError or ValueError, by operator
        if opset >= OLDEST_OPSET:
            return model
        raise CheckpointError(
            f"'{name}' has opset {opset} and cannot be converted to {OPSET}.",
            why=str(err).strip().splitlines()[0],
            fix=f"export the model again with opset {OPSET}.",
        ) from err


def _simplify(model: ir.Model, card: Card, samples: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Build in constants, settle conditions on sizes, fold, fuse batch norms, name every node; in place."""
    model.ir_version = max(model.ir_version, 8)
    _drop_listed_weights(model)
    _build_in(model, card)
    _fold(model)
    while _settle(model, samples):
        _fold(model)
    onnxscript.rewriter.rewrite(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for index, node in enumerate(model.graph.all_nodes()):
        node.metadata_props.clear()
        node.doc_string = None
        node.name = f"{node.op_type}_{index}" if not node.name else node.name
    _unique(model)
    model.metadata_props.clear()
    tidy(model, {value.name or "": value.name or "" for value in model.graph.inputs})


def _fold(model: ir.Model) -> None:
    """Compute what depends on no input, weights that are cut and joined too, unless it grows the file."""
    limit = max((value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None), default=0)
    onnxscript.optimizer.optimize(model)
    onnxscript.optimizer.fold_constants_ir(
        model, onnx_shape_inference=True, input_size_limit=2 * limit, output_size_limit=2 * limit, should_fold=lambda _: True
    )
    onnxscript.optimizer.optimize(model)


def _drop_listed_weights(model: ir.Model) -> None:
    """Old files list their weights among the inputs."""
    graph = model.graph
    kept = [value for value in graph.inputs if value.name not in graph.initializers]
    graph.inputs.clear()
    graph.inputs.extend(kept)


def _build_in(model: ir.Model, card: Card) -> None:
    kinds = modalities(card)
    for value in model.graph.inputs:
        spec = card.inputs.get(str(value.name))
        if spec is None or "value" not in spec.options:
            continue
        content = kinds[spec.name].initial()
        assert content is not None  # it has a value
        fixed = ir.Value(name=f"{value.name}/value", const_value=ir.tensor(content, name=f"{value.name}/value"))
        fixed.shape, fixed.dtype = ir.Shape(content.shape), ir.DataType.from_numpy(content.dtype)
        model.graph.register_initializer(fixed)
        value.replace_all_uses_with(fixed)


def _settle(model: ir.Model, samples: Sequence[Mapping[str, np.ndarray]]) -> bool:
    """Replace conditions of If that depend on sizes alone by what they are; whether one was replaced."""
    conditions = {node.inputs[0]: node for node in model.graph if node.op_type == "If" and _of_sizes(node.inputs[0])}
    names = [value.name for value in conditions if value is not None and value.name]
    if not names:
        return False
    proto = parity.with_outputs(ir.serde.serialize_model(model), names)
    answers = [parity.run_reference(proto, [_repeat(model, samples[0], batch)])[0] for batch in FIXED_BATCHES]
    settled = False
    for value, node in conditions.items():
        seen = {bool(answer[str(value.name)].all()) for answer in answers} if value is not None else set()
        if len(seen) != 1:
            continue
        content = np.array(seen.pop())
        fixed = ir.Value(name=f"{node.name or value.name}/condition", const_value=ir.tensor(content))  # type: ignore[union-attr]
        fixed.shape, fixed.dtype = ir.Shape(()), ir.DataType.BOOL
        model.graph.register_initializer(fixed)
        node.replace_input_with(0, fixed)
        settled = True
    return settled


def _of_sizes(value: ir.Value | None) -> bool:
    """Whether a value depends on inputs through Shape and Size alone."""
    if value is None or value.is_initializer():
        return True
    if value.is_graph_input():
        return False
    maker = value.producer()
    if maker is None:
        return False
    return maker.op_type in ("Shape", "Size", "Constant") or all(_of_sizes(part) for part in maker.inputs)


def _repeat(model: ir.Model, sample: Mapping[str, np.ndarray], batch: int) -> dict[str, np.ndarray]:
    """One sample as ``batch`` equal ones, along the open axis that is of size 1 in the sample."""
    fed = {}
    for value in model.graph.inputs:
        array = sample[str(value.name)]
        axes = [a for a, size in enumerate(value.shape or ()) if not isinstance(size, int) and array.shape[a] == 1]
        fed[str(value.name)] = np.repeat(array, batch, axes[0]) if axes else array
    return fed


def _unique(model: ir.Model) -> None:
    seen: set[str] = set()
    for node in model.graph.all_nodes():
        name, count = str(node.name), 1
        while node.name in seen:
            node.name, count = f"{name}_{count}", count + 1
        seen.add(str(node.name))


def _samples(card: Card, original: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """Synthetic samples of what the file itself takes, by its own input names."""
    constants = {tensor.name for tensor in original.graph.initializer}
    names = [value.name for value in original.graph.input if value.name not in constants]
    kinds = modalities(card)
    samples = []
    for batch in synthetic(card, samples=CHECKED_SAMPLES).calibration(CHECKED_SAMPLES):
        features = [frontend_ops.run(kind.frontend(), batch.inputs[name], steps=card.inputs[name].steps) for name, kind in kinds.items()]
        flat = [value for values in features for value in values]
        by_name = dict(zip([n for n, values in zip(kinds, features, strict=True) for n in _names(n, len(values))], flat, strict=True))
        samples.append(by_name if set(by_name) == set(names) else dict(zip(names, flat, strict=False)))
    return samples


def _names(name: str, count: int) -> list[str]:
    return [name, f"{name}_mask"][:count]


def _check(original: onnx.ModelProto, converted: onnx.ModelProto, samples: Sequence[Mapping[str, np.ndarray]], card: Card) -> None:
    """Raises ParityError unless both compute the same."""
    before, _ = parity.run_reference(original, samples)
    after, _ = parity.run_reference(converted, samples)
    for name, difference in parity.compare(before, after).items():
        if not parity.within(difference):
            raise ParityError(
                f"output '{name}' of '{card.model}' changes by {difference.max_abs:.3g} when the file is converted to opset {OPSET}.",
                why=f"its scale is {difference.scale:.3g}; a converter between opsets wrote an operator wrongly.",
                fix=f"export the model again with opset {OPSET}.",
            )
