"""A user's ONNX file made fit for the rest of the way: a recent opset, constants folded, no needless If, front-ends in front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx import version_converter
from onnx_ir.passes import common

from edgemm.contracts import frontend_ops
from edgemm.contracts import task as tasks
from edgemm.contracts.card import Card
from edgemm.contracts.libraries import quiet_calls
from edgemm.contracts.modality import modalities
from edgemm.data.dataset import synthetic
from edgemm.errors import CardError, CheckpointError, EdgemmError, ParityError, nearest
from edgemm.graph import chances, files, outputs, parity, quantized_elsewhere, single_precision, unfit
from edgemm.graph.branches import drop_unread
from edgemm.graph.exporter_leftovers import tidy
from edgemm.graph.frontend import PREFIX, features, prepend
from edgemm.graph.onnx_card import read
from edgemm.graph.row_by_row import require_own_answers

OPSET = 18  # what the exporter writes; every target takes it
OLDEST_OPSET = 13  # the first with one scale a channel in Q/DQ
FIXED_BATCHES = (1, 2, 3)  # a condition on sizes that is the same for these is taken to be the same for all
CHECKED_SAMPLES = 2
HALF: int = onnx.TensorProto.FLOAT16


def prepare(card: Card, out: Path, note: Callable[[str], None] = lambda text: None) -> Path:
    """Write the card's ``model:`` to ``out``, ready for the graph steps; inputs and outputs stay what the card says.

    Constants of the card (``value``) are built in; their inputs stay, unused. A graph in half or double precision is read as float32; what
    it takes and answers in float16 stays so.

    Args:
        note: Called with what a reader of the result should know.

    Raises:
        CheckpointError: The file cannot be read, is too old to be converted, or is none that a step here can work on (``graph.unfit``).
        CardError: Inputs or outputs of card and graph differ.
        ParityError: The result computes something else than the file.
        ExportError: Its answer to a sample depends on chance, or on the other samples of a batch.
    """
    assert card.model_path is not None  # the caller's branch
    for given, state in _states(card).items():
        if state not in card.outputs:
            raise CardError(f"inputs.{given}.state names '{state}', which is no output of the card.", fix=nearest(state, card.outputs))
    name = card.model_path.name
    original = outputs.named(card, read(card.model_path))
    unfit.require_tensors(original, name, tasks.tensors(card))
    unfit.require_inference(original, name, {key: spec.options.get("value") for key, spec in card.inputs.items()})
    unfit.require_finite(original, name)
    answered = _output_types(original, card)
    if kinds := single_precision.to_single(original):
        note(f"'{name}' holds {' and '.join(kinds)}: it is read as float32.")
    model = _prepared(original, card, note)
    single_precision.cast_outputs(model, answered)
    return files.save(model, out)


def _prepared(original: onnx.ModelProto, card: Card, note: Callable[[str], None]) -> onnx.ModelProto:
    """The graph with its front-end, in float32 all through."""
    assert card.model_path is not None  # the caller's
    if any(node.name.startswith(PREFIX) for node in original.graph.node):
        return original  # edgemm exported it: it is ready and has its front-end
    features(original.graph, card)  # raises CardError
    samples = _samples(card, original)
    require_own_answers(original, samples)
    chances.settle(original, card, samples, note)
    if any(node.op_type == "DequantizeLinear" for node in original.graph.node):
        _name_nodes(original)
        for fault in quantized_elsewhere.faults(original):
            note(f"'{card.model}' was quantized by another tool: {fault}")
        return prepend(original, card)  # folding would turn its weights back into float
    proto = _simplified(original, card, samples)
    drop_unread(proto)
    if not proto.graph.node:
        raise CheckpointError(
            f"'{card.model}' computes nothing of its inputs.",
            why="no node is left once what depends on no input is computed.",
            fix="export the model itself; a graph's outputs are made by its last layers.",
        )
    _check(original, proto, samples, card)
    return prepend(proto, card)


def _output_types(model: onnx.ModelProto, card: Card) -> dict[str, int]:
    """Output -> the float type that it is handed out in: float16 stays, and a state has the type of the input which it goes into."""
    halves = {value.name: HALF for value in model.graph.output if value.type.tensor_type.elem_type == HALF}
    fed = {output: onnx.helper.np_dtype_to_tensor_dtype(np.dtype(modalities(card)[name].dtype())) for name, output in _states(card).items()}
    return halves | {name: kind for name, kind in fed.items() if kind in (HALF, onnx.TensorProto.FLOAT)}


def _states(card: Card) -> dict[str, str]:
    """Input -> the output that continues it."""
    return {name: str(spec.options["state"]) for name, spec in card.inputs.items() if spec.options.get("state")}


def _simplified(original: onnx.ModelProto, card: Card, samples: Sequence[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    """The graph in a recent opset, as small as ``_simplify`` makes it.

    Raises:
        CheckpointError: onnx_ir or onnxscript cannot read it: a tensor twice, weights of another size than their shape says.
    """
    name = Path(str(card.model)).name
    try:
        with quiet_calls():
            model = ir.serde.deserialize_model(_converted(original, name))
            _simplify(model, card, samples)
        return ir.serde.serialize_model(model)
    except EdgemmError:
        raise
    except Exception as err:  # their errors have no common base, and the words are those of the first
        first: BaseException = err
        while first.__cause__ is not None:
            first = first.__cause__
        raise CheckpointError(
            f"the graph in '{name}' cannot be simplified.",
            why=f"{type(first).__name__}: {' '.join(str(first).split())[:300]}",
            fix="export it again; onnx.checker.check_model(path, full_check=True) may tell more.",
        ) from err


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


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes without a name, or with another's, one of their own; in place."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
        seen.add(node.name)


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
        fed = by_name if set(by_name) == set(names) else dict(zip(names, flat, strict=False))
        samples.append({name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in fed.items()})
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
